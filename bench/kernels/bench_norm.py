"""Residual add and norm of each model, in bf16 and quantized: x and residual read, their sum and
the norm written."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench.kernels.bench_quantize import eager_quantize
from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels import norm
from hala_kernels.tuning import Config

EPS = 1e-5

# Hidden size and the norm of LFM2, Gemma2's sandwich, and Cohere2.
MODELS = {
    "350M": (1024, "rms"),
    "1.2B": (2048, "rms"),
    "9B": (3584, "sandwich"),
    "111B": (12288, "layer"),
}


def eager_norm(x: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
    """As transformers writes it."""
    h = x.float()
    if kind == "layer":
        h = h - h.mean(-1, keepdim=True)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    if kind == "rms":
        return weight * h.to(x.dtype)
    return (h * (weight.float() + (kind == "sandwich"))).to(x.dtype)


def eager(kind: str, scales: str | None, x, residual, weight, input_weight) -> tuple:
    total = residual + (eager_norm(x, input_weight, kind) if kind == "sandwich" else x)
    y = eager_norm(total, weight, kind)
    return (y, total) if scales is None else (*eager_quantize(y, scales), total)


def ours(kind: str, scales: str | None, x, residual, weight, input_weight) -> tuple:
    inner = {"plus_one": True, "input_weight": input_weight} if kind == "sandwich" else {}
    if scales is None:
        operation = norm.add_layer_norm if kind == "layer" else norm.add_rms_norm
        return operation(x, residual, weight, EPS, **inner)
    operation = norm.layer_norm_quantize if kind == "layer" else norm.rms_norm_quantize
    group = 128 if scales == "group" else None
    return operation(x, weight, EPS, residual=residual, group=group, **inner)


def problem(name: str, tokens: int, width: int, kind: str, scales: str | None) -> Problem:
    """`scales`: None for a bf16 result, "token" or "group" for an e4m3 one."""

    def make(device: torch.device) -> tuple:
        shapes = [(tokens, width), (tokens, width), (width,), (width,)]
        return tuple(torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)

    peer = partial(eager, kind, scales)
    groups = -(-width // 128) if scales == "group" else 1
    written = width + 4 * groups if scales else 2 * width
    return Problem(
        name=f"add {kind} norm {scales or 'bf16'} {name} {tokens}x{width}",
        make=make,
        contenders={
            OURS: partial(ours, kind, scales),
            "torch": peer,
            "torch.compile": torch.compile(peer, dynamic=False),
        },
        bytes=tokens * (6 * width + written),
    )


FULL = [
    *(
        problem(name, tokens, *model, scales)
        for scales in (None, "token")
        for name, model in MODELS.items()
        for tokens in (8192, 64)
    ),
    *(problem(name, 8192, *MODELS[name], "group") for name in ("1.2B", "111B")),
]
SMOKE = [
    problem("tiny", 3, 256, kind, scales)
    for kind, scales in (("rms", None), ("sandwich", "token"), ("layer", "group"))
]


def candidates(shape: dict[str, int]) -> list[Config]:
    """8 columns a thread, and at most 8 chunks of a row."""
    width = shape["n"]
    return [
        {"ROWS": 256 * warps // block, "BLOCK": block, "EARLY": early, "num_warps": warps}
        for warps in (2, 4, 8, 16)
        for block in (256, 512, 1024, 2048, 4096)
        for early in (True, False)
        if 1 <= 256 * warps // block <= 4 and block < 2 * width and width <= 8 * block
    ]


WIDTHS = [{"n": width} for width in (1024, 1536, 2048, 3584, 12288)]


def tuned(scales: str | None, shape: dict[str, int]) -> Problem:
    return problem("tune", 8192, shape["n"], "layer" if shape["n"] == 12288 else "rms", scales)


SPACES = [
    Space("norm", WIDTHS, candidates, partial(tuned, None), where=("n",)),
    Space("norm_quantize", WIDTHS, candidates, partial(tuned, "token"), where=("n",)),
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_norm(measure, problem, contender):
    measure(problem, contender)
