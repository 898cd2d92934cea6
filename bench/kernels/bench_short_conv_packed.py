"""The trainer's gated convolution, forward and backward: 11N columns moved for a token."""

from __future__ import annotations

import pytest
import torch

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.short_conv_packed import backward, forward, reference, short_conv_packed

WIDTHS = {"LFM2-350M": 1024, "LFM2-700M": 1536, "LFM2-1.2B": 2048}
TAPS, DOCUMENT = 3, 600


def make(tokens: int, width: int, device: torch.device, differentiable: bool = False) -> tuple:
    """bcx, weight, documents and dy."""
    bcx = torch.randn(tokens, 3 * width, device=device, dtype=torch.bfloat16)
    weight = torch.randn(width, TAPS, device=device, dtype=torch.bfloat16)
    documents = torch.arange(tokens, device=device) // DOCUMENT
    dy = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
    return bcx.requires_grad_(differentiable), weight.requires_grad_(differentiable), documents, dy


def both(operation):
    """Forward and backward."""

    def call(bcx, weight, documents, dy):
        y = operation(bcx, weight, None, documents)
        return torch.autograd.grad(y, (bcx, weight), dy)

    return call


def problem(name: str, tokens: int, width: int) -> Problem:
    peers = {
        "torch": both(reference),
        "torch.compile": both(torch.compile(reference, dynamic=False)),
    }
    return Problem(
        name=f"short_conv_packed {name} {tokens}",
        make=lambda device: make(tokens, width, device, differentiable=True),
        contenders={OURS: both(short_conv_packed), **peers},
        bytes=2 * 11 * width * tokens,
    )


FULL = [problem(name, tokens, width) for name, width in WIDTHS.items() for tokens in (8192, 32768)]
SMOKE = [problem("tiny", 5, 20)]


def one_direction(direction: str, tokens: int, width: int) -> Problem:
    if direction == "forward":
        ours, columns = lambda bcx, weight, documents, dy: forward(bcx, weight, None, documents), 4
    else:
        ours, columns = (
            lambda bcx, weight, documents, dy: backward(bcx, weight, None, documents, dy),
            7,
        )
    return Problem(
        name=f"short_conv_packed {direction} {tokens}x{width}",
        make=lambda device: make(tokens, width, device),
        contenders={OURS: ours},
        bytes=2 * columns * width * tokens,
    )


def candidates(shape: dict[str, int]) -> list[dict]:
    """8 or 4 columns a thread."""
    return [
        {"SPAN": span, "BLOCK_N": 32 * warps * columns, "num_warps": warps}
        for span in (8, 16, 32, 64)
        for warps, columns in ((1, 8), (2, 8), (4, 8), (2, 4), (4, 4))
    ]


SPACES = [
    Space(
        table=f"short_conv_packed_{direction}",
        shapes=[{"n": n, "t": t} for n in WIDTHS.values() for t in (8192, 32768)],
        candidates=candidates,
        problem=lambda shape, d=direction: one_direction(d, shape["t"], shape["n"]),
        where=("n",),
        up_to=("t",),
    )
    for direction in ("forward", "backward")
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_short_conv_packed(measure, problem, contender):
    measure(problem, contender)
