from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.cross_entropy import linear_cross_entropy

TUNED = ("cross_entropy",)

WIDE_LOADS = dict.fromkeys((89, 90, 100), r"ld\.global\S*\.v4\.b32")


def cases(table: str, v: int = 256000) -> Iterator[Case]:
    targets = meta(8, dtype=torch.int64)
    for dtype in (torch.bfloat16, torch.float32):
        hidden, name = meta(8, 64, dtype=dtype), str(dtype).removeprefix("torch.")
        for softcap in (None, 30.0):
            for gradient in (True, False):
                weight = meta(v, 64, dtype=dtype).requires_grad_(gradient)
                call = partial(linear_cross_entropy, hidden, weight, targets, softcap=softcap)
                label = f"{name}{' softcap' * bool(softcap)}{' gradient' * gradient}"
                yield Case(label, call, WIDE_LOADS)
    # A vocabulary that is no multiple of anything still loads 16 bytes at once.
    weight = meta(v - 3, 64).requires_grad_()
    call = partial(linear_cross_entropy, meta(8, 64), weight, targets)
    yield Case("odd vocabulary gradient", call, WIDE_LOADS)
