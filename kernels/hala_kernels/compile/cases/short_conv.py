from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.short_conv import ConvLayout, short_conv

TUNED = ("short_conv_step", "short_conv_chunks")


def cases(table: str, n: int = 12288) -> Iterator[Case]:
    lengths = torch.ones(64) if table == "short_conv_step" else torch.full((4,), 16.0)

    def case(taps: int, dtype: torch.dtype, bias: bool, taps_first: bool) -> Case:
        layout = ConvLayout.of(lengths.long(), taps).to("meta")
        weight = meta(taps, n, dtype=dtype).t() if taps_first else meta(n, taps, dtype=dtype)
        args = (
            meta(layout.tokens, 3 * n, dtype=dtype),
            weight,
            meta(n, dtype=dtype) if bias else None,
            meta(300, taps - 1, n, dtype=dtype),
            meta(len(lengths), dtype=torch.int64),
            layout,
        )
        label = f"{taps} taps, {str(dtype)[6:]}{', bias' if bias else ''}"
        return Case(label, lambda: short_conv(*args))

    yield case(2, torch.bfloat16, bias=False, taps_first=True)
    yield case(3, torch.bfloat16, bias=False, taps_first=True)
    yield case(3, torch.float32, bias=True, taps_first=False)
    yield case(4, torch.bfloat16, bias=True, taps_first=True)
    yield case(4, torch.float32, bias=False, taps_first=True)
