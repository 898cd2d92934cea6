from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.short_conv_packed import backward, forward

TUNED = ("short_conv_packed_forward", "short_conv_packed_backward")


def cases(table: str, n: int = 2048, t: int = 1 << 20) -> Iterator[Case]:
    def case(taps: int, dtype: torch.dtype, bias: bool) -> Case:
        args = (
            meta(t, 3 * n, dtype=dtype),
            meta(n, taps, dtype=dtype),
            meta(n, dtype=dtype) if bias else None,
            meta(t, dtype=torch.int64),
        )
        label = f"{taps} taps, {str(dtype)[6:]}{', bias' if bias else ''}"
        if table == "short_conv_packed_forward":
            return Case(label, lambda: forward(*args))
        return Case(label, lambda: backward(*args, meta(t, n, dtype=dtype)))

    yield case(2, torch.bfloat16, bias=False)
    yield case(3, torch.bfloat16, bias=False)
    yield case(3, torch.float32, bias=True)
    yield case(4, torch.bfloat16, bias=True)
