from __future__ import annotations

from collections.abc import Iterator

from hala_kernels import activation
from hala_kernels.compile.cases import Case, meta
from hala_kernels.compile.cases.quantize import WIDE_LOADS

TUNED = ("gated_mul", "gated_mul_quantize_token", "gated_mul_quantize_group")


def cases(table: str, n: int = 36864) -> Iterator[Case]:
    x = meta(8, 2 * n)
    for name in ("silu_mul", "gelu_tanh_mul"):
        plain = getattr(activation, name)
        quantized = getattr(activation, f"{name}_quantize")
        if table == "gated_mul":
            yield Case(name, lambda op=plain: op(x), WIDE_LOADS)
        elif table == "gated_mul_quantize_token":
            yield Case(f"{name}_quantize token", lambda op=quantized: op(x), WIDE_LOADS)
        else:
            yield Case(f"{name}_quantize group", lambda op=quantized: op(x, 128), WIDE_LOADS)
