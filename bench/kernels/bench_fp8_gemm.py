"""FP8 products of the models' linear layers: weights read once for few rows, FLOPs for many.

The peer is cuBLASLt behind `torch._scaled_mm`, with a scale a tensor (a scale a row is another
kernel there, and slower); ours has a scale a token and a channel. For few rows ours is always
precise, so `fast` is a contender for many rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest
import torch

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.fp8_gemm import fp8_gemm
from hala_kernels.quantize import FP8
from hala_kernels.tuning import Config

# Model and layer: N, K.
LAYERS = {
    "350M gate_up": (9216, 1024),
    "1.2B qkv": (3072, 2048),
    "1.2B in_proj": (6144, 2048),
    "1.2B gate_up": (16384, 2048),
    "1.2B down": (2048, 8192),
    "3B down": (2048, 11008),
    "9B qkv": (8192, 3584),
    "9B out": (3584, 4096),
    "9B gate_up": (28672, 3584),
    "9B down": (3584, 14336),
    "111B qkv": (14336, 12288),
    "111B down": (12288, 36864),
}
L2 = 60 << 20
"""More than any of these chips' L2 is held in a rotation's worth of bf16 weights."""


def problem(
    layer: str, m: int, n: int, k: int, peers: bool = True, blocks: bool = False, **options: bool
) -> Problem:
    """`options` go to `fp8_gemm`; with none, its variants and the peers compete too."""
    groups, many = -(-k // 128), m > 64

    def make(device: torch.device) -> tuple:
        a, b = (torch.randn(rows, k, device=device).to(FP8) for rows in (m, n))
        a_shape, b_shape = ((m, groups), (-(-n // 128), groups)) if blocks else ((m, 1), (n, 1))
        a_scale, b_scale = (torch.rand(s, device=device) * 0.02 for s in (a_shape, b_shape))
        return a, a_scale, b, b_scale, torch.ones((), device=device)

    def ours(**options: bool) -> Callable:
        return lambda a, a_scale, b, b_scale, _: fp8_gemm(a, a_scale, b, b_scale, **options)

    def scaled_mm(fast: bool) -> Callable:
        return lambda a, _, b, __, one: torch._scaled_mm(
            a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    contenders = {OURS: ours(**options)}
    if many and not options and not blocks:
        contenders["ours, fast"] = ours(fast_accum=True)
    if layer.startswith("1.2B") and not options and not blocks:
        contenders["ours, invariant"] = ours(invariant=True)
    if peers:
        contenders |= {
            "_scaled_mm": scaled_mm(False),
            "_scaled_mm, fast": scaled_mm(True),
            "torch bf16": Bfloat16(m, n, k),
        }
    kind = "".join(f" {name}" for name, on in {"blocks": blocks, **options}.items() if on)
    return Problem(
        name=f"fp8_gemm{kind} {layer} {m}x{n}x{k}",
        make=make,
        contenders=contenders,
        bytes=n * k + m * k + 2 * m * n,
        flops=2 * m * n * k,
        rate="fp8",
    )


class Bfloat16:
    """The same product in bf16, on operands of its own: beside the FP8 ones they would let those
    stay in the L2 between calls."""

    def __init__(self, m: int, n: int, k: int) -> None:
        self._shape, self._operands = (m, n, k), None

    def __call__(self, a: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        if self._operands is None:
            m, n, k = self._shape
            count = -(-3 * L2 // (2 * n * k))
            self._operands = cycle(
                [
                    [torch.randn(r, k, device=a.device, dtype=torch.bfloat16) for r in (m, n)]
                    for _ in range(count)
                ]
            )
        left, right = next(self._operands)
        return left @ right.t()


def _problems(layers: tuple[str, ...], rows: tuple[int, ...], **options: bool) -> list[Problem]:
    return [problem(layer, m, *LAYERS[layer], **options) for layer in layers for m in rows]


FULL = [
    *_problems(("1.2B qkv", "1.2B gate_up", "1.2B down"), (1, 16, 64, 1024, 8192)),
    *_problems(("9B out", "9B down", "111B qkv"), (1, 64)),
    *_problems(("350M gate_up", "1.2B in_proj", "3B down", "9B gate_up"), (16,)),
    *_problems(("1.2B gate_up", "9B qkv", "9B gate_up", "9B down"), (256, 4096)),
    *_problems(("111B qkv", "111B down"), (1024, 4096)),
    *_problems(("9B gate_up",), (16, 4096), peers=False, blocks=True),
]
SMOKE = [
    problem("tiny", m, 192, 256, peers=False, blocks=blocks)
    for m in (3, 200)
    for blocks in (False, True)
]


def tile_candidates(shape: dict[str, int]) -> list[Config]:
    """Tiles, order and depth of the persistent kernel; the tuner drops those that spill."""
    tiles = [
        (128, 256, 1, 8),
        (128, 128, 1, 8),
        (128, 128, 1, 4),
        (64, 256, 1, 4),
        (256, 128, 1, 8),
    ]
    if shape["fast"] == 0:
        tiles = [(128, 256, 2, 8), (128, 128, 1, 8), (64, 256, 2, 4), (128, 128, 2, 4)]
    return [
        {
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": 128,
            "HALVES": halves,
            "GROUP_M": group,
            "num_warps": warps,
            "num_stages": stages,
        }
        for block_m, block_n, halves, warps in tiles
        for group in (4, 16)
        for stages in (3, 4)
    ]


def streaming_candidates(shape: dict[str, int]) -> list[Config]:
    """Splits that leave at most 4 programs for a multiprocessor, and depths that fit its memory."""
    block_m = 16 if shape["m"] <= 16 else 64 if shape["m"] <= 64 else 128
    splits = [s for s in (1, 2, 4, 8) if s == 1 or s * shape["n"] // 64 <= 512]
    found = []
    for block_n, block_k, warps in ((64, 256, 4), (128, 256, 4), (128, 128, 8), (64, 128, 4)):
        stage = (block_m + block_n) * block_k
        for split in splits:
            for memory in (110 << 10, 200 << 10):
                found.append(
                    {
                        "BLOCK_M": block_m,
                        "BLOCK_N": block_n,
                        "BLOCK_K": block_k,
                        "SPLIT": split,
                        "num_warps": warps,
                        "num_stages": min(8, memory // stage),
                    }
                )
    return [c for i, c in enumerate(found) if c["num_stages"] >= 2 and c not in found[:i]][:24]


def invariant_candidates(shape: dict[str, int]) -> list[Config]:
    """No split: its workspace would grow with the rows of a prefill."""
    return [
        {
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
            "SPLIT": 1,
            "num_warps": 4 if block_m * block_n <= 8192 else 8,
            "num_stages": stages,
        }
        for block_m in (64, 128)
        for block_n in (64, 128)
        for block_k in (128, 256)
        for stages in (4, 6)
        if (block_m + block_n) * block_k * stages <= 200 << 10
    ]


def _shapes(table: dict[str, tuple[int, ...]], **fixed: int) -> list[dict[str, int]]:
    return [
        {"m": m, "n": LAYERS[layer][0], "k": LAYERS[layer][1], **fixed}
        for layer, rows in table.items()
        for m in rows
    ]


SPACES = [
    Space(
        "fp8_gemm",
        [
            {**shape, "fast": fast}
            for shape in _shapes(
                {
                    "1.2B gate_up": (8192,),
                    "1.2B down": (8192,),
                    "9B gate_up": (4096,),
                    "9B down": (4096,),
                    "111B qkv": (4096,),
                    "111B down": (4096,),
                },
                block=0,
                tma=1,
            )
            for fast in (0, 1)
        ],
        tile_candidates,
        lambda s: problem("tune", s["m"], s["n"], s["k"], peers=False, fast_accum=bool(s["fast"])),
        where=("n", "k", "block", "tma", "fast"),
    ),
    Space(
        "fp8_gemm_small",
        _shapes(
            {
                "1.2B qkv": (16, 64),
                "1.2B in_proj": (16, 64),
                "1.2B gate_up": (16, 64),
                "1.2B down": (16, 64, 128),
                "9B down": (16, 64),
                "111B qkv": (64,),
            },
            block=0,
        ),
        streaming_candidates,
        lambda s: problem("tune", s["m"], s["n"], s["k"], peers=False),
        where=("n", "k", "block"),
        up_to=("m",),
    ),
    Space(
        "fp8_gemm_invariant",
        _shapes({"1.2B qkv": (64,), "1.2B gate_up": (64,), "1.2B down": (64,)}, block=0),
        invariant_candidates,
        lambda s: problem("tune", s["m"], s["n"], s["k"], peers=False, invariant=True),
        where=("n", "k", "block"),
    ),
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_fp8_gemm(measure, problem, contender):
    measure(problem, contender)
