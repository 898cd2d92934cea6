"""What a merge did, tensor by tensor, and how much of it was SLERP at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from hala_tools.slerp.sphere import LINEAR_ABOVE

Method = Literal["slerp", "linear", "copied"]
Parity = Literal["strict", "mergekit"]

SAME_WITHIN = 1e-12
"""Of 1 - cosine: what rounding leaves of two equal tensors."""


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the result.

    `dtype` is safetensors' name. `layer` is None outside the layers. `cosine`, `norms` (of base and
    tuned) and `weights` (what base and tuned were multiplied by) are None where nothing was
    computed: the tensor was copied, or has no angle.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layer: int | None
    t: float | None
    cosine: float | None
    norms: tuple[float, float] | None
    weights: tuple[float, float] | None
    method: Method

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def degrees(self) -> float | None:
        """The angle between base and tuned, 0 to 180."""
        if self.cosine is None:
            return None
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))

    @property
    def kind(self) -> Literal["slerp", "linear", "same", "copied"]:
        """`same`: base and tuned are equal, as far as their norms and cosine tell. `linear`: the
        angle is so small that SLERP and a weighted mean are one, whatever was computed."""
        if self.method == "copied":
            return "copied"
        if self.norms is not None and self.norms[0] == self.norms[1]:
            zero = self.norms[0] == 0
            if zero or (self.cosine is not None and self.cosine > 1 - SAME_WITHIN):
                return "same"
        near = self.cosine is not None and abs(self.cosine) > LINEAR_ABOVE
        return "linear" if near or self.method == "linear" else "slerp"


KINDS = {
    "linear": f"with |cosine| > {LINEAR_ABOVE}: there SLERP is a weighted mean",
    "slerp": "further apart: there it is not",
    "same": "equal in both models, to rounding",
    "copied": "not floating-point, or empty",
}
"""Kind of tensor -> what is said of it."""

ALWAYS_SAID = ("linear", "slerp")


@dataclass(frozen=True)
class Report:
    """`base` and `tuned` as the user named them. `bytes_written`: of weights."""

    base: str
    tuned: str
    parity: Parity
    seconds: float
    bytes_written: int
    tensors: tuple[TensorReport, ...]

    def to_dict(self) -> dict:
        """For JSON: the summary, then every tensor. What is not finite is None."""
        lowest = self._lowest()
        return {
            "base": self.base,
            "tuned": self.tuned,
            "parity": self.parity,
            "seconds": self.seconds,
            "bytes_written": self.bytes_written,
            "linear_above": LINEAR_ABOVE,
            "all": _count(self.tensors),
            **{kind: _count(self._of(kind)) for kind in KINDS},
            "lowest_cosine": lowest and {"tensor": lowest.name, "cosine": lowest.cosine},
            "tensors": [_to_dict(tensor) for tensor in self.tensors],
        }

    def lines(self) -> list[str]:
        """What the command prints at the end: size and speed, then `summary`."""
        gigabytes = self.bytes_written / 1e9
        return [
            f"merged {len(self.tensors):,} tensors, {self._parameters()} parameters: "
            f"{gigabytes:,.3f} GB written in {self.seconds:,.1f} s, "
            f"{gigabytes / max(self.seconds, 1e-3):,.2f} GB/s",
            *self.summary(),
        ]

    def summary(self) -> list[str]:
        """How much of the merge was linear, and where the models are furthest apart. The same merge
        gives the same lines."""
        every = _count(self.tensors)
        lines = []
        for kind, meaning in KINDS.items():
            some = _count(self._of(kind))
            if some["tensors"] or kind in ALWAYS_SAID:
                share = _percent(some["parameters"], every["parameters"])
                lines.append(
                    f"{kind}: {some['tensors']:,} of {every['tensors']:,} tensors, "
                    f"{share} of {self._parameters()} parameters, {meaning}"
                )
        if lowest := self._lowest():
            lines.append(
                f"lowest cosine: {cosine_text(lowest.cosine)} ({lowest.degrees:.3g} degrees), "
                f"{lowest.name}"
            )
        return lines

    def _of(self, kind: str) -> list[TensorReport]:
        return [tensor for tensor in self.tensors if tensor.kind == kind]

    def _lowest(self) -> TensorReport | None:
        angled = [t for t in self.tensors if t.cosine is not None and t.kind != "same"]
        return min(angled, key=lambda tensor: tensor.cosine, default=None)

    def _parameters(self) -> str:
        """1.17 B, 5.42 M, 310."""
        number = sum(tensor.parameters for tensor in self.tensors)
        for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
            if number >= unit:
                return f"{number / unit:,.2f} {name}"
        return str(number)


def cosine_text(cosine: float) -> str:
    """With as many digits as it takes to tell it from 1: 0.9871, 0.99999987."""
    apart = 1 - abs(cosine)
    if apart < SAME_WITHIN:
        return f"{cosine:.0f}"
    return f"{cosine:.{max(4, 1 - math.floor(math.log10(apart)))}f}"


def _percent(part: int, whole: int) -> str:
    """Not 100% for less than all, nor 0% for more than nothing."""
    share = part / whole if whole else 0.0
    if 0 < share < 0.0005:
        return "under 0.1%"
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{share:.1%}"


def _count(tensors: Iterable[TensorReport]) -> dict[str, int]:
    sizes = [tensor.parameters for tensor in tensors]
    return {"tensors": len(sizes), "parameters": sum(sizes)}


def _to_dict(tensor: TensorReport) -> dict:
    values = asdict(tensor) | {"degrees": tensor.degrees, "kind": tensor.kind}
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: object) -> object:
    if isinstance(value, tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
