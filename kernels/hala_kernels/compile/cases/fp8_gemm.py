from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.fp8_gemm import fp8_gemm
from hala_kernels.quantize import FP8

TUNED = (
    "fp8_gemm",
    "fp8_gemm_small",
    "fp8_gemm_invariant",
    "fp8_gemm_unaligned",
    "fp8_gemm_reduce",
)

MMA = {
    89: r"mma\.sync\S*e4m3\S*e4m3",
    90: r"wgmma\.mma_async\S*e4m3\S*e4m3",
    100: r"tcgen05\.mma\S*f8f6f4",
}
"""FP8 products stay on the FP8 tensor cores."""


def cases(
    table: str,
    m: int | None = None,
    n: int | None = None,
    k: int = 36864,
    block: int | None = None,
    fast: int | None = None,
    tma: int | None = None,
) -> Iterator[Case]:
    """Every value of a key that the entry leaves open."""
    if m is None and n is None and table == "fp8_gemm_small":
        n = 8192  # wider ones have tiles enough for the persistent kernel
    m = m or {"fp8_gemm_small": 128, "fp8_gemm_reduce": 64}.get(table, 8192)
    n = n or {"fp8_gemm_reduce": 2048}.get(table, 65536)
    for blocked in (0, 1) if block is None else (block,):
        both = fast is None and table == "fp8_gemm" and not blocked
        for fast_accum in (0, 1) if both else (fast or 0,):
            yield from _cases(table, m, n, k, blocked, fast_accum, tma != 0)


def _cases(
    table: str, m: int, n: int, k: int, blocked: int, fast: int, aligned: bool
) -> Iterator[Case]:
    n -= 0 if aligned else 2  # rows of the result that the copy engine cannot write
    k -= 8 if table == "fp8_gemm_unaligned" else 0
    name = f"{'blocks' if blocked else 'rows'}{', fast' if fast else ''}"

    def call(extras: bool, dtype: torch.dtype) -> object:
        groups = -(-k // 128)
        return fp8_gemm(
            meta(m, k, dtype=FP8),
            meta(m, groups if blocked else 1, dtype=torch.float32),
            meta(n, k, dtype=FP8),
            meta(*((-(-n // 128), groups) if blocked else (n, 1)), dtype=torch.float32),
            bias=meta(n) if extras else None,
            residual=meta(m, n, dtype=dtype) if extras else None,
            out_dtype=dtype,
            invariant=table == "fp8_gemm_invariant",
            fast_accum=bool(fast),
        )

    demands = {} if table == "fp8_gemm_unaligned" else MMA
    if table != "fp8_gemm_small":  # the time of the gate; what it leaves out needs less
        yield Case(name, lambda: call(False, torch.bfloat16), demands)
    yield Case(f"{name}, bias, residual, float32", lambda: call(True, torch.float32), demands)
