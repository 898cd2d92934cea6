from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.quantize import quantize, quantize_static

TUNED = ("quantize_token", "quantize_tile")

# 16 bytes a thread, without which the bandwidth is not reached.
WIDE_LOADS = dict.fromkeys((89, 90, 100), r"ld\.global\S*\.v4")


def cases(table: str, n: int = 36864) -> Iterator[Case]:
    x = meta(8, n)
    if table == "quantize_token":
        yield Case("token", lambda: quantize(x), WIDE_LOADS)
    else:
        yield Case("group", lambda: quantize(x, 128), WIDE_LOADS)
        scale = meta(1, dtype=torch.float32)
        yield Case("static", lambda: quantize_static(x, scale), WIDE_LOADS)
