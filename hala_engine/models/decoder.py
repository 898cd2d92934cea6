"""What the architectures share: the fields of their configurations, and a model around the layers.

A model file adds its own fields, its layer and its order of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hala_engine.batch import CacheSpec
from hala_engine.errors import InputError
from hala_engine.layers.embedding import Vocabulary
from hala_engine.layers.mlp import ACTIVATIONS
from hala_engine.layers.rotary import RopeConfig, Rotary
from hala_engine.weights.loading import Weights

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """`windows`: of each attention layer, the positions that it sees; None: all. Raises ValueError
    for sizes that cannot be."""

    vocab_size: int
    hidden: int
    mlp_width: int
    windows: tuple[int | None, ...]
    heads: int
    kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    rope: RopeConfig
    max_positions: int
    tied: bool

    def __post_init__(self) -> None:
        counts = ("vocab_size", "hidden", "mlp_width", "heads", "kv_heads", "head_dim")
        for name in (*counts, "max_positions"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(self.norm_eps, int | float):
            raise ValueError(f"norm_eps must be a number, not {self.norm_eps!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} KV heads")


def shared_fields(
    c: dict,
    *,
    norm_eps: float,
    activation: str | None = None,
    max_positions: int | None = None,
    tied: bool,
) -> dict[str, Any]:
    """The fields of `DecoderConfig` that config.json, `c`, spells alike for all architectures:
    without `windows` and `mlp_width`.

    Raises KeyError for one that is missing, InputError for an unknown activation.
    """
    activation = activation or c.get("hidden_act") or "silu"
    if activation not in ACTIVATIONS:
        raise InputError(
            f"config.json: activation {activation!r} is not supported "
            f"(supported: {', '.join(sorted(ACTIVATIONS))})"
        )
    heads = c["num_attention_heads"]
    return {
        "vocab_size": c["vocab_size"],
        "hidden": c["hidden_size"],
        "heads": heads,
        "kv_heads": c.get("num_key_value_heads") or heads,
        "head_dim": c.get("head_dim") or c["hidden_size"] // heads,
        "activation": activation,
        "norm_eps": norm_eps,
        "rope": RopeConfig.from_hf(c),
        "max_positions": max_positions or c["max_position_embeddings"],
        "tied": tied,
    }


def windows_of(c: dict, kinds: Sequence[str], window: int | None = None) -> tuple[int | None, ...]:
    """The window of each layer from its kind, sliding_attention or full_attention; `window`: if
    config.json does not say it. Raises InputError."""
    layers = c["num_hidden_layers"]
    if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
        raise InputError(
            f"config.json: layer_types must name {SLIDING} or {FULL} for {layers} layers"
        )
    window = c.get("sliding_window", window)
    if SLIDING in kinds and not (isinstance(window, int) and window > 0):
        raise InputError(f"config.json: sliding_window must be a positive number, not {window!r}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


class Decoder(nn.Module):
    """A language model: `forward` gives hidden states [T, hidden], `logits` the scores of rows.

    make_layer: builds a layer from its weights and its item of `kinds`. The scores are `logits`
    times `logit_scale`, soft-capped by `logit_softcap`: what samples does that on its way.
    """

    logit_scale = 1.0
    logit_softcap: float | None = None

    def __init__(
        self,
        w: Weights,
        c: DecoderConfig,
        make_layer: Callable[[Weights, Any], nn.Module],
        kinds: Sequence[Any],
    ) -> None:
        super().__init__()
        self.config = c
        self.kv_heads = c.kv_heads // w.place.ranks  # of this rank
        self.vocabulary = Vocabulary(w, c.vocab_size, c.hidden, tied=c.tied)
        layers = w.at("model").at("layers")
        self.layers = nn.ModuleList(make_layer(layers.at(i), kind) for i, kind in enumerate(kinds))
        self.rotary = Rotary(c.head_dim, c.rope, w.place.device)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a sequence keeps between steps."""
        return CacheSpec(self.config.windows, self.kv_heads, self.config.head_dim)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden] -> [S, vocab]."""
        return self.vocabulary.logits(hidden)
