"""What a model must at least move and multiply, and the seconds that this takes at measured rates.

A decode step reads every weight once, the K and V that its sequences still see, and their
convolution states. Prompts add FLOPs only: their passes can share the weights that a step reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.architectures import Raw
from bench.kernels.timing import Limits
from hala_engine.models.registry import model_layout


@dataclass(frozen=True)
class Cost:
    """`fp8_flops`: those of products whose weights are FP8."""

    bytes: float
    bf16_flops: float
    fp8_flops: float

    def seconds(self, limits: Limits) -> float:
        compute = self.bf16_flops / limits.bf16 + self.fp8_flops / (limits.fp8 or limits.bf16)
        return float(max(self.bytes / limits.copy, compute))


@dataclass(frozen=True)
class ModelCost:
    """`body`: parameters of the layers' matrices, one byte each if `fp8`; `head`: of the output
    projection. `windows`: of each attention layer. `state_bytes`: of a sequence's convolutions.
    Other tensors are bfloat16 or too small to count."""

    body: int
    head: int
    fp8: bool
    heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    state_bytes: int

    @classmethod
    def of(cls, raw: Raw) -> ModelCost:
        """Of the config.json `raw`."""
        parts = model_layout(raw, "config.json")
        model, spec = parts.model, parts.model.cache_spec
        names = [name for name in parts.linear_modules if name.startswith("model.layers.")]
        return cls(
            body=sum(math.prod(parts.tensors[f"{name}.weight"]) for name in names),
            head=model.config.vocab_size * model.config.hidden,
            fp8="quantization_config" in raw,
            heads=model.config.heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            windows=spec.windows,
            state_bytes=spec.state_bytes(2),
        )

    def decode(self, contexts: np.ndarray) -> Cost:
        """Of a step with one token of each sequence; `contexts`: their tokens, the new one too."""
        sequences = len(contexts)
        seen = sum(_seen(contexts, window).sum() for window in self.windows)
        kv = 2 * self.kv_heads * self.head_dim * 2
        weights = self.body * (1 if self.fp8 else 2) + self.head * 2
        moved = weights + kv * seen + 2 * self.state_bytes * sequences
        attention = 4 * self.heads * self.head_dim * seen
        return self._cost(moved, sequences, sequences, attention)

    def prefill(self, prompts: np.ndarray) -> Cost:
        """Of whole prompts with these numbers of tokens: FLOPs alone."""
        pairs = sum(_pairs(prompts, window).sum() for window in self.windows)
        attention = 4 * self.heads * self.head_dim * pairs
        return self._cost(0.0, prompts.sum(), len(prompts), attention)

    def _cost(self, moved: float, tokens: int, drawn: int, attention: float) -> Cost:
        body, rest = 2.0 * self.body * tokens, 2.0 * self.head * drawn + attention
        return Cost(moved, rest, body) if self.fp8 else Cost(moved, rest + body, 0.0)


def _seen(contexts: np.ndarray, window: int | None) -> np.ndarray:
    return contexts if window is None else np.minimum(contexts, window)


def _pairs(prompts: np.ndarray, window: int | None) -> np.ndarray:
    """Query and key pairs of a causal prompt."""
    whole = prompts * (prompts + 1) // 2
    if window is None:
        return whole
    beyond = np.maximum(prompts - window, 0)
    return whole - beyond * (beyond + 1) // 2


@dataclass(frozen=True)
class Floor:
    """Least seconds of a job: `steps` decode steps, and its prompts."""

    steps: int
    decode_s: float
    prefill_s: float

    @property
    def seconds(self) -> float:
        return self.decode_s + self.prefill_s


def job_floor(
    model: ModelCost, prompts: list[int], outputs: list[int], slots: int, limits: Limits
) -> Floor:
    """Of requests with these lengths, `slots` at a time, a free slot filled in arrival order at
    once. A request's first token comes from its prompt's pass."""
    waiting = np.array([prompts, outputs]).T
    contexts = left = np.zeros(0, dtype=np.int64)
    steps, decode_s = 0, 0.0
    while len(waiting) or len(contexts):
        new, waiting = np.split(waiting, [slots - len(contexts)])
        contexts = np.concatenate((contexts, new[:, 0]))
        left = np.concatenate((left, new[:, 1] - 1))
        contexts, left = contexts[left > 0] + 1, left[left > 0] - 1
        if len(contexts):
            decode_s += model.decode(contexts).seconds(limits)
            steps += 1
        contexts, left = contexts[left > 0], left[left > 0]
    prefill_s = model.prefill(np.array(prompts)).seconds(limits)
    return Floor(steps, decode_s, prefill_s)
