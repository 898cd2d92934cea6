from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.prefill_attention import prefill_attention
from hala_kernels.quantize import FP8

TUNED = ("prefill_attention",)


def cases(table: str, q: int = 2, kv: int = 2, d: int = 256, page: int = 0) -> Iterator[Case]:
    kv = 4 if q == 4 else kv
    kv_heads, group = 8, 4
    q_dtype = {4: torch.float32, 2: torch.bfloat16}[q]
    kv_dtype = {4: torch.float32, 2: torch.bfloat16, 1: FP8}[kv]

    def call(page: int, **options):
        cache = meta(64, page, kv_heads, d, dtype=kv_dtype)
        if kv == 1:
            options |= {f"{x}_scale": meta(kv_heads, dtype=torch.float32) for x in "kv"}
        return prefill_attention(
            meta(1000, kv_heads * group, d, dtype=q_dtype),
            cache,
            cache,
            meta(4, 1024 // page, dtype=torch.int64),
            meta(5, dtype=torch.int64),
            meta(4, dtype=torch.int64),
            d**-0.5,
            max_seqlen=500,
            **options,
        )

    form = f"q {q} kv {kv} d {d}"
    demands = {90: "wgmma", 100: "tcgen05"} if q == 2 else {}
    small, large = page or 16, page or 128
    if kv == 2:
        yield Case(f"{form} page {small}", lambda: call(small), demands)
    capped = {"window": 4096, "softcap": 50.0}
    yield Case(f"{form} page {large} window, soft-cap", lambda: call(large, **capped), demands)
