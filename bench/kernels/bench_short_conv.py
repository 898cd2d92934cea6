"""The engine's gated convolution: 3N columns read and N written for a token, each sequence's state
read and written."""

from __future__ import annotations

import pytest
import torch

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.short_conv import ConvLayout, short_conv

WIDTHS = {"LFM2-350M": 1024, "LFM2-700M": 1536, "LFM2-1.2B": 2048}
TAPS = 3


def eager_step(bcx, weight, states, slots):
    b, c, x = bcx.chunk(3, dim=-1)
    columns = torch.cat((states[slots], (b * x).unsqueeze(1)), dim=1)  # [S, K, N]
    states[slots] = columns[:, 1:]
    return c * (columns * weight.t()).sum(1)


def eager_chunks(bcx, weight, states, slots, tokens, before, last, rows):
    b, c, x = bcx.chunk(3, dim=-1)
    columns = bcx.new_empty(rows, x.shape[1])
    columns[tokens] = b * x
    columns[before] = states[slots]
    states[slots] = columns[last]
    y = columns[tokens] * weight[:, -1]
    for back in range(1, TAPS):
        y = y + columns[tokens - back] * weight[:, -1 - back]
    return c * y


def problem(name: str, width: int, sequences: int, tokens: int) -> Problem:
    """`tokens` of each sequence."""
    step = tokens == 1
    total, history = sequences * tokens, TAPS - 1

    def make(device: torch.device) -> tuple:
        bcx = torch.randn(total, 3 * width, device=device, dtype=torch.bfloat16)
        weight = torch.randn(TAPS, width, device=device, dtype=torch.bfloat16).t()
        # States that a call leaves as they are, so that every call computes the same.
        u = (bcx[:, :width] * bcx[:, 2 * width :]).view(sequences, tokens, width)
        states = u[:, -history:].repeat(1, history if step else 1, 1)
        slots = torch.arange(sequences, device=device)
        layout = ConvLayout.of(torch.full((sequences,), tokens), TAPS).to(device)
        return bcx, weight, states, slots, layout

    def ours(bcx, weight, states, slots, layout):
        return short_conv(bcx, weight, None, states, slots, layout)

    def peer(operation):
        def call(bcx, weight, states, slots, layout):
            rest = () if step else layout.padded
            return operation(bcx, weight, states, slots, *rest)

        return call

    eager = eager_step if step else eager_chunks
    return Problem(
        name=f"short_conv {name} {sequences}x{tokens}",
        make=make,
        contenders={
            OURS: ours,
            "torch": peer(eager),
            "torch.compile": peer(torch.compile(eager, dynamic=False)),
        },
        bytes=2 * width * (4 * total + 2 * history * sequences + TAPS),
    )


FULL = [
    problem(name, width, sequences, tokens)
    for name, width in WIDTHS.items()
    for sequences, tokens in ((8, 1024), (256, 1), (64, 1))
]
SMOKE = [problem("tiny", 130, 2, 5), problem("tiny", 130, 3, 1)]


def candidates(shape: dict[str, int]) -> list[dict]:
    """8 or 16 columns a thread."""
    return [
        {"BLOCK_T": 32 * warps * columns // block, "BLOCK_N": block, "num_warps": warps}
        for block in (128, 256, 512)
        for warps in (1, 2, 4, 8)
        for columns in (8, 16)
        if 4 <= 32 * warps * columns // block <= 32
    ]


def space(table: str, sequences: int, tokens: int) -> Space:
    return Space(
        table=table,
        shapes=[{"n": width} for width in WIDTHS.values()],
        candidates=candidates,
        problem=lambda shape: problem("tuning", shape["n"], sequences, tokens),
        up_to=("n",),
    )


SPACES = [space("short_conv_step", 256, 1), space("short_conv_chunks", 8, 1024)]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_short_conv(measure, problem, contender):
    measure(problem, contender)
