"""Quantization to e4m3 of attention's output: 2 bytes a value read, one written."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.quantize import quantize, quantize_static
from hala_kernels.tuning import Config

# Heads times head dimension.
WIDTHS = {"350M": 1024, "1.2B": 2048, "9B": 4096, "111B": 12288}


def eager_quantize(x: torch.Tensor, scales: str) -> tuple[torch.Tensor, torch.Tensor]:
    """With a scale for each token or group; the columns must be whole groups."""
    grouped = x.float().unflatten(-1, (-1, 128 if scales == "group" else x.shape[-1]))
    scale = grouped.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (grouped / scale).to(torch.float8_e4m3fn).flatten(-2), scale.squeeze(-1)


def eager_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)


def problem(name: str, tokens: int, width: int, scales: str) -> Problem:
    """`scales`: "token", "group" or "static"."""

    def make(device: torch.device) -> tuple:
        x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
        scale = torch.full((1,), 0.01, device=device)
        return (x, scale) if scales == "static" else (x,)

    if scales == "static":
        ours, peer = quantize_static, eager_static
    else:
        ours = partial(quantize, group=128 if scales == "group" else None)
        peer = partial(eager_quantize, scales=scales)
    per_row = {"token": 1, "group": -(-width // 128), "static": 0}[scales]
    return Problem(
        name=f"quantize {scales} {name} {tokens}x{width}",
        make=make,
        contenders={
            OURS: ours,
            "torch": peer,
            "torch.compile": torch.compile(peer, dynamic=False),
        },
        bytes=tokens * (3 * width + 4 * per_row),
    )


FULL = [
    *(problem(n, tokens, w, "token") for n, w in WIDTHS.items() for tokens in (8192, 64)),
    *(problem(n, 8192, WIDTHS[n], s) for s in ("group", "static") for n in ("1.2B", "111B")),
]
SMOKE = [problem("tiny", 3, 256, scales) for scales in ("token", "group", "static")]


def row_candidates(shape: dict[str, int]) -> list[Config]:
    """8 columns a thread, and a row in at most 8 chunks."""
    width = shape["n"]
    return [
        {"ROWS": 256 * warps // block, "BLOCK": block, "num_warps": warps}
        for warps in (1, 2, 4, 8, 16)
        for block in (256, 512, 1024, 2048, 4096)
        if 1 <= 256 * warps // block <= 8 and block < 2 * width and width <= 8 * block
    ]


def tile_candidates(shape: dict[str, int]) -> list[Config]:
    return [
        {"ROWS": 256 * warps * vectors // block, "BLOCK": block, "num_warps": warps}
        for warps in (2, 4, 8)
        for vectors in (1, 2)  # of 8 columns a thread
        for block in (128, 512, 2048)
        if block <= 256 * warps * vectors
    ]


SPACES = [
    Space(
        "quantize_token",
        [{"n": width} for width in WIDTHS.values()],
        row_candidates,
        lambda shape: problem("tune", 8192, shape["n"], "token"),
        where=("n",),
    ),
    Space(
        "quantize_tile",
        [{"n": 2048}, {"n": 12288}],
        tile_candidates,
        lambda shape: problem("tune", 8192, shape["n"], "group"),
        where=("n",),
    ),
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_quantize(measure, problem, contender):
    measure(problem, contender)
