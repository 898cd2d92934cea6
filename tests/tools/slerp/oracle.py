"""SLERP of whole tensors in float64, as the formula stands, and errors against it in ulps.

Merges compute in float32, whose error is some 2^-24 of the terms of ca*a + cb*b. Where these
cancel, an ulp of the sum says nothing. So an ulp is that of a number not smaller than the terms,
|ca*a| + |cb*b|, times CANCELLED. For bfloat16 and float16 it is then 2^-20 of the terms or more;
float32 is measured at the size of its terms everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

LINEAR_ABOVE = 0.9995
"""|cosine| from which on SLERP is linear."""

NO_DIRECTION = 1e-8
"""A tensor with a norm up to this has no direction."""

CANCELLED = {"bfloat16": 2.0**-12, "float16": 2.0**-9, "float32": 1.0}


@dataclass(frozen=True)
class Exact:
    """A merged tensor in float64, and the size of the terms it is the sum of."""

    values: np.ndarray
    terms: np.ndarray

    def ulps(self, got: np.ndarray, dtypes: Sequence[np.dtype]) -> np.ndarray:
        """The error of `got`, which should be these values rounded to `dtypes` one after the
        other. A result rounded once and well has errors up to 0.5."""
        want = self.values
        for dtype in dtypes[:-1]:
            want = want.astype(dtype).astype(np.float64)
        return np.abs(got.astype(np.float64) - want) / self.ulp(dtypes)

    def ulp(self, dtypes: Sequence[np.dtype]) -> np.ndarray:
        """The largest of those that `dtypes` have there."""
        return np.maximum.reduce([self._ulp(dtype) for dtype in dtypes])

    def _ulp(self, dtype: np.dtype) -> np.ndarray:
        return _spacing(np.maximum(np.abs(self.values), CANCELLED[dtype.name] * self.terms), dtype)


def slerp(base: np.ndarray, tuned: np.ndarray, t: float, right_angles: bool = False) -> Exact:
    """Of any shape and dtype.

    Linear where one of the two has no direction. With `right_angles`, as in MergeKit, the norm of
    such a tensor counts as 1, which makes its cosine with any other 0 or nearly so.
    """
    a, b = base.astype(np.float64), tuned.astype(np.float64)
    norms = [np.sqrt(np.sum(x * x)) for x in (a, b)]
    directed = min(norms) > NO_DIRECTION
    norm_a, norm_b = (norm if norm > NO_DIRECTION else 1.0 for norm in norms)
    cosine = np.clip(np.sum((a / norm_a) * (b / norm_b)), -1.0, 1.0)
    weight_a, weight_b = 1 - t, t
    if abs(cosine) <= LINEAR_ABOVE and (directed or right_angles):
        angle = np.arccos(cosine)
        weight_a = np.sin((1 - t) * angle) / np.sin(angle)
        weight_b = np.sin(t * angle) / np.sin(angle)
    return Exact(weight_a * a + weight_b * b, np.abs(weight_a * a) + np.abs(weight_b * b))


def _spacing(sizes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """From numbers of these sizes to the next in `dtype`."""
    info = ml_dtypes.finfo(dtype)
    exponents = np.where(sizes > 0, np.frexp(sizes)[1] - 1, info.minexp)
    return np.ldexp(1.0, np.maximum(exponents, info.minexp) - info.nmant)
