"""Decode attention over pages: every visible K and V read once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.attention_shapes import (
    GEMMA,
    LFM2,
    MODELS,
    QWEN,
    Heads,
    flex_peer,
    paged_cache,
)
from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.paged_attention import paged_attention
from hala_kernels.quantize import FP8

BF16 = torch.bfloat16


def problem(
    h: Heads,
    sequences: int,
    context: int,
    kv_dtype: torch.dtype = BF16,
    page: int = 16,
    *,
    flex: bool = False,
    mixed: bool = False,
) -> Problem:
    """`mixed`: contexts from an eighth of `context` to all of it. Peers get K and V unpaged: the
    cache itself, seen as [B, Hkv, L, D]."""
    lengths = [context] * sequences
    if mixed:
        lengths = torch.linspace(context // 8, context, sequences).long().tolist()

    def make(device: torch.device) -> tuple:
        q = torch.randn(sequences, h.heads, h.dim, device=device, dtype=BF16)
        lens = torch.tensor(lengths, device=device)
        return q, *paged_cache(h, sequences, context, page, kv_dtype, device), lens

    def ours(q, k, v, table, k_scale, v_scale, lens):
        scales = {"k_scale": k_scale, "v_scale": v_scale}
        return paged_attention(q, k, v, table, lens, h.dim**-0.5, **h.options, **scales)

    def unpaged(x: torch.Tensor) -> torch.Tensor:
        return x.view(sequences, context, h.kv_heads, h.dim).transpose(1, 2)

    def sdpa(q, k, v, *_):
        return F.scaled_dot_product_attention(
            q[:, :, None], unpaged(k), unpaged(v), scale=h.dim**-0.5, enable_gqa=True
        )

    contenders = {OURS: ours}
    windowed = h.window is not None and h.window < context
    if kv_dtype == BF16 and not mixed and not windowed and h.softcap is None:
        contenders["sdpa"] = sdpa
    if flex:
        attend = flex_peer(h, 1, context)
        contenders["flex"] = lambda q, k, v, *_: attend(q[:, :, None], unpaged(k), unpaged(v))
    seen = sum(h.visible(n - 1) for n in lengths)
    row = 2 * h.kv_heads * h.dim * torch.empty(0, dtype=kv_dtype).element_size()
    dtype = "fp8" if kv_dtype == FP8 else "bf16"
    return Problem(
        name=f"decode {dtype} {h.model} {sequences}x{context}{' mixed' * mixed} page {page}",
        make=make,
        contenders=contenders,
        bytes=seen * row + 4 * sequences * h.heads * h.dim,
        flops=4 * h.dim * h.heads * seen,
    )


FULL = [
    problem(h, sequences, context, dtype, flex=dtype == BF16 and h in (LFM2, GEMMA))
    for h in MODELS
    for sequences, context in ((64, 1024), (256, 1024), (8, 8192))
    for dtype in (BF16, FP8)
] + [
    problem(LFM2, 64, 1024, BF16, 128),
    problem(LFM2, 64, 2048, BF16, mixed=True),
    problem(QWEN, 1, 8192),
]
TINY = Heads("tiny", 4, 2, 32)
SMOKE = [
    problem(TINY, 2, 64),
    problem(TINY, 2, 64, FP8, mixed=True),
    problem(Heads("tiny capped", 4, 2, 32, 32, 5.0), 2, 64),
]


def _space_problem(shape: dict[str, int]) -> Problem:
    h = {64: LFM2, 128: QWEN, 256: GEMMA}[shape["d"]]
    return problem(h, 64, 1024, BF16 if shape["kv"] == 2 else FP8)


SPACES = [
    Space(
        "paged_attention",
        shapes=[{"q": 2, "kv": kv, "d": d} for kv in (1, 2) for d in (64, 128, 256)],
        # SPLIT only matters to few sequences, which this does not time.
        candidates=lambda shape: [
            {"SPLIT": 256, "BLOCK_N": block, "num_warps": warps, "num_stages": stages}
            for block in (32, 64, 128)
            for warps in (4, 8)
            for stages in (2, 3, 4)
        ],
        problem=_space_problem,
        where=("q", "kv"),
        up_to=("d",),
    )
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_paged_attention(measure, problem, contender):
    measure(problem, contender)
