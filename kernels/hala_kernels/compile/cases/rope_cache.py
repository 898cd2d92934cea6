from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.quantize import FP8
from hala_kernels.rope_cache import rope_and_cache

TUNED = ("rope_cache",)


def cases(table: str, d: int = 256) -> Iterator[Case]:
    def case(
        label: str,
        dtype: torch.dtype = torch.bfloat16,
        dim: int = d,
        norm: bool = False,
        rotate: bool = True,
        interleaved: bool = False,
        fp8: bool = False,
    ) -> Case:
        tokens, q_heads, kv_heads = 16, 16, 8
        fused = meta(tokens, q_heads + 2 * kv_heads, dim, dtype=dtype)
        q, k, v = fused.split((q_heads, kv_heads, kv_heads), dim=1)
        angles = meta(tokens, dim // 2, dtype=torch.float32) if rotate else None
        cache = meta(4, 16, kv_heads, dim, dtype=FP8 if fp8 else dtype)
        weight = meta(dim, dtype=dtype) if norm else None
        scale = meta(kv_heads, dtype=torch.float32) if fp8 else None
        slots = meta(tokens, dtype=torch.int64)

        def call() -> None:
            rope_and_cache(
                q, k, v, angles, angles, cache, cache, slots, weight, weight,
                interleaved=interleaved, k_scale=scale, v_scale=scale,
            )  # fmt: skip

        return Case(label, call)

    yield case("norm, half-split", norm=True)
    yield case("half-split, float32", dtype=torch.float32, norm=True)
    yield case("half-split, fp8 cache", norm=True, fp8=True)
    yield case("interleaved", interleaved=True)
    yield case("norm, interleaved, fp8 cache", norm=True, interleaved=True, fp8=True)
    yield case("no rotation", rotate=False)
    yield case("head dimension 2/3 as wide", dim=d * 2 // 3 // 16 * 16)
