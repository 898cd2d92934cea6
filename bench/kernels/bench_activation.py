"""Gated activation of each model, in bf16 and quantized: 2N columns read, N written."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.bench_quantize import eager_quantize
from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels import activation
from hala_kernels.tuning import Config

# MLP width and activation of LFM2-350M and 1.2B, Gemma2-9B, command-a-translate 111B.
MODELS = {
    "350M": (4608, "silu"),
    "1.2B": (8192, "silu"),
    "9B": (14336, "gelu_tanh"),
    "111B": (36864, "silu"),
}


def eager(name: str, scales: str | None, gate_up: torch.Tensor):
    gate, up = gate_up.chunk(2, dim=-1)
    y = (F.silu(gate) if name == "silu" else F.gelu(gate, approximate="tanh")) * up
    return y if scales is None else eager_quantize(y, scales)


def problem(model: str, tokens: int, width: int, name: str, scales: str | None) -> Problem:
    """`scales`: None for a bf16 result, "token" or "group" for an e4m3 one."""
    ours = getattr(activation, f"{name}_mul{'_quantize' if scales else ''}")
    if scales == "group":
        ours = partial(ours, group=128)
    peer = partial(eager, name, scales)
    groups = -(-width // 128) if scales == "group" else 1
    written = width + 4 * groups if scales else 2 * width
    return Problem(
        name=f"{name}_mul {scales or 'bf16'} {model} {tokens}x{width}",
        make=lambda device: (torch.randn(tokens, 2 * width, device=device, dtype=torch.bfloat16),),
        contenders={
            OURS: ours,
            "torch": peer,
            "torch.compile": torch.compile(peer, dynamic=False),
        },
        bytes=tokens * (4 * width + written),
    )


FULL = [
    *(
        problem(model, tokens, *MODELS[model], scales)
        for scales in (None, "token")
        for model in MODELS
        for tokens in (8192, 64)
    ),
    *(problem(model, 8192, *MODELS[model], "group") for model in ("1.2B", "111B")),
]
SMOKE = [problem("tiny", 3, 256, "silu", scales) for scales in (None, "token", "group")]


def tile_candidates(shape: dict[str, int]) -> list[Config]:
    return [
        {"BLOCK": 256 * warps * vectors, "num_warps": warps}
        for warps in (1, 2, 4, 8)
        for vectors in (1, 2, 4)  # of 8 columns a thread
    ]


def row_candidates(shape: dict[str, int]) -> list[Config]:
    """A row in 1 to 8 chunks in registers, or a little of it read again."""
    return [
        {"BLOCK": block, "num_warps": warps}
        for warps in (4, 8, 16, 32)
        for block in (1024, 2048, 4096, 8192)
        if 8 <= block // (32 * warps) <= 16 and shape["n"] <= 10 * block < 20 * shape["n"]
    ]


WIDTHS = [{"n": width} for width, _ in MODELS.values()]


def tuned(scales: str | None, shape: dict[str, int]) -> Problem:
    return problem("tune", 8192 if shape["n"] < 20000 else 2048, shape["n"], "silu", scales)


SPACES = [
    Space("gated_mul", WIDTHS, tile_candidates, partial(tuned, None), where=("n",)),
    Space(
        "gated_mul_quantize_token", WIDTHS, row_candidates, partial(tuned, "token"), where=("n",)
    ),
    Space(
        "gated_mul_quantize_group", WIDTHS, tile_candidates, partial(tuned, "group"), where=("n",)
    ),
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_gated_activation(measure, problem, contender):
    measure(problem, contender)
