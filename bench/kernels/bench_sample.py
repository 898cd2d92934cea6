"""The sampler: logits [S, V] read once. A nucleus as a language model has it: the largest of V
normal logits of this spread hold 0.9 of the mass in about two hundred ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.tuning import Config

# Vocabularies of LFM2, Qwen2.5 and command-a-translate.
VOCABULARIES = {"LFM2": 65536, "Qwen2.5": 151936, "command-a": 256000}
ROWS = (1, 64, 256)
SPREAD = 4.0

SETTINGS: dict[str, dict[str, float] | None] = {
    "greedy": None,
    "temperature": {"temperature": 0.8},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "min-p 0.1": {"temperature": 0.8, "min_p": 0.1},
    "all": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.1},
}


def arguments(rows: int, v: int, values: dict | None, spread: float, device: torch.device) -> tuple:
    logits = (torch.randn(rows, v, device=device) * spread).bfloat16()
    if values is None:
        return (logits, None)

    def column(name: str, off: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((rows,), values.get(name, off), dtype=dtype, device=device)

    params = SamplingTensors(
        temperature=column("temperature", 1.0, torch.float32),
        top_k=column("top_k", 0, torch.int64),
        top_p=column("top_p", 1.0, torch.float32),
        min_p=column("min_p", 0.0, torch.float32),
        seed=torch.arange(rows, device=device),
        position=torch.arange(rows, device=device) + 17,
    )
    return (logits, params)


def huggingface(values: dict, logits: torch.Tensor, _: SamplingTensors) -> torch.Tensor:
    """What transformers' processors and `generate` do: a sort for top-p, then multinomial."""
    scores = logits.float() / values["temperature"]
    if "top_k" in values:
        scores = scores.masked_fill(scores < scores.topk(values["top_k"])[0][:, -1:], -torch.inf)
    if "top_p" in values:
        ascending, ids = scores.sort(descending=False)
        drop = ascending.softmax(-1).cumsum(-1) <= 1 - values["top_p"]
        drop[:, -1:] = False
        scores = scores.masked_fill(drop.scatter(1, ids, drop), -torch.inf)
    if "min_p" in values:
        p = scores.softmax(-1)
        scores = scores.masked_fill(p < values["min_p"] * p.amax(-1, keepdim=True), -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1).squeeze(1)


def problem(
    vocabulary: str, v: int, rows: int, setting: str, spread: float = SPREAD, logprobs: bool = False
) -> Problem:
    values = SETTINGS[setting]
    contenders: dict[str, Callable] = {OURS: partial(sample, with_logprobs=logprobs)}
    if values is None:
        contenders["torch"] = lambda logits, _: logits.argmax(-1)
    else:
        contenders["torch"] = partial(huggingface, values)
    details = ("" if spread == SPREAD else f" spread {spread:g}") + (
        " logprobs" if logprobs else ""
    )
    return Problem(
        name=f"sample {setting}{details} {vocabulary} {rows}x{v}",
        make=lambda device: arguments(rows, v, values, spread, device),
        contenders=contenders,
        bytes=rows * (2 * v + 8),
    )


FULL = [
    *(
        problem(name, v, rows, setting)
        for name, v in VOCABULARIES.items()
        for rows in ROWS
        for setting in SETTINGS
    ),
    # A flat distribution: 0.9 of the mass is spread over tens of thousands of ids.
    problem("command-a", 256000, 256, "top-p 0.9", spread=1.0),
    problem("command-a", 256000, 256, "greedy", logprobs=True),
    problem("command-a", 256000, 256, "temperature", logprobs=True),
]
SMOKE = [problem("tiny", 700, 2, setting) for setting in SETTINGS]


def scan_candidates(_: dict[str, int]) -> list[Config]:
    return [
        {"ROWS": rows, "num_warps": warps}
        for rows in (8, 16, 32, 64)
        for warps in (2, 4, 8)
        if 4 <= rows // warps <= 16
    ]


def finish_candidates(_: dict[str, int]) -> list[Config]:
    return [
        {"ROWS": rows, "HELD": held, "AGAINST": against, "num_warps": warps, "maxnreg": registers}
        for rows, warps, registers in (
            (4, 8, 128),
            (8, 8, 128),
            (16, 8, 224),
            (8, 4, 224),
            (32, 16, 128),
        )
        for held in (512, 1024)
        for against in (4, 8)
    ]


SPACES = [
    Space(
        table="sample_scan",
        shapes=[{"v": v} for v in VOCABULARIES.values()],
        candidates=scan_candidates,
        problem=lambda shape: problem("tuned", shape["v"], 256, "temperature"),
        up_to=("v",),
    ),
    Space(
        table="sample_finish",
        shapes=[{"v": v} for v in VOCABULARIES.values()],
        candidates=finish_candidates,
        problem=lambda shape: problem("tuned", shape["v"], 128, "all"),
        up_to=("v",),
    ),
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_sample(measure, problem, contender):
    measure(problem, contender)
