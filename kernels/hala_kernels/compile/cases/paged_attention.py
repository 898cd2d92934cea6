from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.paged_attention import paged_attention
from hala_kernels.quantize import FP8

TUNED = ("paged_attention",)


def cases(table: str, q: int = 2, kv: int = 2, d: int = 256) -> Iterator[Case]:
    kv = 4 if q == 4 else kv
    kv_heads, group = 8, 4
    q_dtype = {4: torch.float32, 2: torch.bfloat16}[q]
    kv_dtype = {4: torch.float32, 2: torch.bfloat16, 1: FP8}[kv]

    def call(batch: int, page: int, **options):
        cache = meta(64, page, kv_heads, d, dtype=kv_dtype)
        if kv == 1:
            options |= {f"{x}_scale": meta(kv_heads, dtype=torch.float32) for x in "kv"}
        return paged_attention(
            meta(batch, kv_heads * group, d, dtype=q_dtype),
            cache,
            cache,
            meta(batch, 1024 // page, dtype=torch.int64),
            meta(batch, dtype=torch.int64),
            d**-0.5,
            **options,
        )

    form = f"q {q} kv {kv} d {d}"
    capped = {"window": 4096, "softcap": 50.0}
    yield Case(f"{form} whole, window, soft-cap", lambda: call(64, 16, **capped))
    yield Case(f"{form} split", lambda: call(4, 128))
    if kv == 2:
        yield Case(f"{form} whole", lambda: call(64, 128))
