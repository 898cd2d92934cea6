"""Attention of packed prompt chunks over pages: 4 D Hq FLOPs for each visible pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.attention_shapes import (
    COMMAND,
    GEMMA,
    LFM2,
    MODELS,
    Heads,
    flex_peer,
    paged_cache,
)
from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.prefill_attention import prefill_attention
from hala_kernels.quantize import FP8

BF16 = torch.bfloat16


def problem(
    h: Heads,
    sequences: int,
    chunk: int,
    kv_dtype: torch.dtype = BF16,
    page: int = 16,
    *,
    prefix: int = 0,
    flex: bool = False,
) -> Problem:
    """Peers get K and V unpaged: the cache itself, seen as [B, Hkv, L, D]."""
    context = prefix + chunk

    def make(device: torch.device) -> tuple:
        q = torch.randn(sequences * chunk, h.heads, h.dim, device=device, dtype=BF16)
        bounds = torch.arange(0, (sequences + 1) * chunk, chunk, device=device)
        lens = torch.full((sequences,), context, device=device)
        return q, *paged_cache(h, sequences, context, page, kv_dtype, device), bounds, lens

    def ours(q, k, v, table, k_scale, v_scale, bounds, lens):
        return prefill_attention(
            q,
            k,
            v,
            table,
            bounds,
            lens,
            h.dim**-0.5,
            max_seqlen=chunk,
            k_scale=k_scale,
            v_scale=v_scale,
            **h.options,
        )

    def unpacked(q, k, v) -> tuple[torch.Tensor, ...]:
        q = q.view(sequences, chunk, h.heads, h.dim).transpose(1, 2)
        shape = (sequences, context, h.kv_heads, h.dim)
        return q, k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)

    def sdpa(q, k, v, *_):
        return F.scaled_dot_product_attention(
            *unpacked(q, k, v), is_causal=True, scale=h.dim**-0.5, enable_gqa=True
        )

    contenders = {OURS: ours}
    windowed = h.window is not None and h.window < context
    if kv_dtype == BF16 and not prefix and not windowed and h.softcap is None:
        contenders["sdpa"] = sdpa
    if flex:
        attend = flex_peer(h, chunk, context)
        contenders["flex"] = lambda q, k, v, *_: attend(*unpacked(q, k, v))
    pairs = sequences * sum(h.visible(position) for position in range(prefix, context))
    row = 2 * h.kv_heads * h.dim * torch.empty(0, dtype=kv_dtype).element_size()
    dtype = "fp8" if kv_dtype == FP8 else "bf16"
    after = f" after {prefix}" * bool(prefix)
    return Problem(
        name=f"prefill {dtype} {h.model} {sequences}x{chunk}{after} page {page}",
        make=make,
        contenders=contenders,
        bytes=sequences * (context * row + 4 * chunk * h.heads * h.dim),
        flops=4 * h.dim * h.heads * pairs,
    )


FULL = (
    [
        problem(h, sequences, chunk, BF16, page, flex=page == 16 and h in (LFM2, GEMMA))
        for h in MODELS
        for sequences, chunk in ((8, 1024), (1, 8192))
        for page in (16, 128)
    ]
    + [problem(h, 8, 1024, FP8, 16) for h in MODELS]
    + [problem(h, 1, 512, prefix=7680) for h in (LFM2, COMMAND)]
)
TINY = Heads("tiny", 4, 2, 32)
SMOKE = [
    problem(TINY, 2, 32),
    problem(TINY, 1, 16, FP8, prefix=32),
    problem(Heads("tiny capped", 4, 2, 32, 16, 5.0), 2, 32),
]


def _space_problem(shape: dict[str, int]) -> Problem:
    h = {64: LFM2, 128: COMMAND, 256: GEMMA}[shape["d"]]
    return problem(h, 4, 2048, BF16 if shape["kv"] == 2 else FP8, shape["page"])


SPACES = [
    Space(
        "prefill_attention",
        shapes=[
            {"q": 2, "kv": kv, "d": d, "page": page}
            for kv in (1, 2)
            for d in (64, 128, 256)
            for page in (16, 128)
        ],
        candidates=lambda shape: [
            {"BLOCK_M": rows, "BLOCK_N": block, "num_warps": warps, "num_stages": stages}
            for rows, warps in ((128, 8), (128, 4), (64, 4))
            for block in (32, 64, 128)
            for stages in (2, 3)
        ],
        problem=_space_problem,
        where=("q", "kv"),
        up_to=("d", "page"),
    )
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_prefill_attention(measure, problem, contender):
    measure(problem, contender)
