"""Spherical linear interpolation of two tensors, each seen as one vector.

    slerp(a, b; t) = sin((1 - t) θ) / sin θ · a  +  sin(t θ) / sin θ · b,
    cos θ = <a, b> / (|a| |b|)

The angle is that of the directions, what is combined are the tensors as they are, lengths and all.
Where the directions are so near to each other, or to opposite, that sin θ says nothing any more,
the combination is linear: (1 - t) a + t b. Source: K. Shoemake, Animating rotation with quaternion
curves, SIGGRAPH 1985; the thresholds are those in use for merging models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hala_tools.slerp.errors import InputError

LINEAR_ABOVE = 0.9995
"""|cos θ| from which on the combination is linear."""

SMALLEST_NORM = 1e-8
"""A tensor no longer than this has no direction."""

ROW = 1024
"""Products that are summed in the arrays' own precision; from there on sums are float64."""


@dataclass(frozen=True)
class Moments:
    """<a, a>, <b, b> and <a, b> of tensors a and b, or of a part of them: parts add up."""

    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.aa + other.aa, self.bb + other.bb, self.ab + other.ab)

    @property
    def finite(self) -> bool:
        """False if a or b holds an infinity or a NaN, or a product left the arrays' range."""
        return math.isfinite(self.aa) and math.isfinite(self.bb) and math.isfinite(self.ab)

    @property
    def norms(self) -> tuple[float, float]:
        return math.sqrt(self.aa), math.sqrt(self.bb)


def moments(a: np.ndarray, b: np.ndarray) -> Moments:
    """a, b: [n], n a multiple of ROW, float32 or float64."""
    a, b = a.reshape(-1, ROW), b.reshape(-1, ROW)
    return Moments(_sum_of_products(a, a), _sum_of_products(b, b), _sum_of_products(a, b))


def _sum_of_products(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vecdot(a, b).sum(dtype=np.float64))


@dataclass(frozen=True)
class Combination:
    """`weights[0]` · a + `weights[1]` · b. `cosine` is None where a or b has no direction."""

    weights: tuple[float, float]
    cosine: float | None
    linear: bool


def combination(whole: Moments, t: float, parity: bool = False) -> Combination:
    """How a and b, of the moments `whole`, are combined.

    A tensor without a direction (see SMALLEST_NORM) is combined linearly. With `parity` it is as in
    MergeKit: its norm counts as 1, so that its cosine with anything is near 0 and the weights are
    those of a right angle. Raises InputError for a t beyond all range.
    """
    norm_a, norm_b = whole.norms
    directed = norm_a > SMALLEST_NORM, norm_b > SMALLEST_NORM
    cosine = None
    if all(directed) or parity:
        scale = (norm_a if directed[0] else 1.0) * (norm_b if directed[1] else 1.0)
        cosine = min(1.0, max(-1.0, whole.ab / scale))
    if cosine is None or abs(cosine) > LINEAR_ABOVE:
        return Combination((1 - t, t), cosine, linear=True)
    angle = math.acos(cosine)
    sine = math.sin(angle)
    parts = (1 - t) * angle, t * angle
    if not all(map(math.isfinite, parts)):
        raise InputError(f"t = {t:g} leaves the range of numbers; choose t within 0 and 1")
    weights = math.sin(parts[0]) / sine, math.sin(parts[1]) / sine
    return Combination(weights, cosine, linear=False)


def combine(
    a: np.ndarray, b: np.ndarray, weights: tuple[float, float], bounded: bool = False
) -> np.ndarray:
    """weights[0] · a + weights[1] · b; a, b: [n], both overwritten, the result is in `a`.

    `bounded`: that a + b cannot overflow is known; it saves a pass where the weights are equal.
    """
    first, second = (a.dtype.type(weight) for weight in weights)
    if bounded and first == second:  # t = 1/2, the usual
        return np.multiply(np.add(a, b, out=a), first, out=a)
    return np.add(np.multiply(a, first, out=a), np.multiply(b, second, out=b), out=a)
