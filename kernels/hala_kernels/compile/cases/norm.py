from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from hala_kernels import norm
from hala_kernels.compile.cases import Case, meta
from hala_kernels.compile.cases.quantize import WIDE_LOADS

TUNED = ("norm", "norm_quantize", "norm_wide")


def cases(table: str, n: int | None = None) -> Iterator[Case]:
    """The widest entry of each table goes through every kind; the others through the kinds that
    take the fewest and the most registers."""
    widest = n is None
    n = n or (36864 if table == "norm_wide" else norm.WIDEST_HELD)
    x, residual, weight = meta(8, n), meta(8, n), meta(n)
    rms = partial(norm.rms_norm_quantize, x, weight)
    layer = partial(norm.layer_norm_quantize, x, weight)
    plain = {
        "rms_norm": lambda: norm.rms_norm(x, weight, 1e-5),
        "add_layer_norm": lambda: norm.add_layer_norm(x, residual, weight, 1e-5),
    }
    quantized = {
        "add_layer_norm token": lambda: layer(1e-5, residual=residual),
        "sandwich group": lambda: rms(
            1e-5, residual=residual, plus_one=True, input_weight=weight, group=128
        ),
    }
    if widest:
        plain |= {
            "add_rms_norm": lambda: norm.add_rms_norm(x, residual, weight, 1e-5),
            "rms_norm plus one": lambda: norm.rms_norm(x, weight, 1e-5, plus_one=True),
            "layer_norm": lambda: norm.layer_norm(x, weight, 1e-5),
            "sandwich": lambda: norm.add_rms_norm(
                x, residual, weight, 1e-5, plus_one=True, input_weight=weight
            ),
        }
        quantized |= {
            "rms_norm token": lambda: rms(1e-5),
            "add_rms_norm group": lambda: rms(1e-5, residual=residual, group=128),
            "layer_norm group": lambda: layer(1e-5, group=128),
        }
    if table != "norm_quantize":
        yield from (Case(label, call, WIDE_LOADS) for label, call in plain.items())
    if table != "norm":
        yield from (Case(label, call, WIDE_LOADS) for label, call in quantized.items())
