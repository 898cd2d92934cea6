"""Weights to e4m3 and their scales, a cache-sized piece at a time.

    scale = max(|w|) / 448, rounded up to eight significant bits;   q = round(w / scale)

and w is recovered as q * scale, as compressed-tensors' "channel" and "block" strategies define it.

Readers hold scales in float32 (vLLM) or in the model's dtype (compressed-tensors). A scale of eight
significant bits is exact in float32, bfloat16 and float16, so that all of them recover the same
weights. Rounding it up keeps |w / scale| within 448: nothing saturates. It costs no precision: e4m3
is a floating-point format, whose relative error does not depend on the scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hala_kernels.quantize import FP8_MAX, SMALLEST_SCALE

SMALLEST_FLOAT16 = 2.0**-24
PIECE = 1 << 17
"""Values that are worked on at a time: their float32 forms stay in a core's cache."""


def scales_of(largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scales, float32, of values whose largest magnitudes are `largest` (float32, finite), to
    be stored in `dtype` exactly. Never zero: a row of zeros gets the smallest scale."""
    bits = (largest / FP8_MAX).view(torch.int32)
    scale = (bits + 0xFFFF).bitwise_and_(-0x10000).view(torch.float32)
    if dtype == torch.float16:
        return (scale / SMALLEST_FLOAT16).ceil_().clamp_(min=1) * SMALLEST_FLOAT16
    return scale.clamp_(min=SMALLEST_SCALE)


@dataclass
class SquaredError:
    """Sums over weights: of the squared error, and of the squared weight."""

    error: float = 0.0
    weight: float = 0.0

    def add(self, other: SquaredError) -> None:
        self.error += other.error
        self.weight += other.weight

    @property
    def relative(self) -> float:
        """||W - q * scale|| / ||W||, both Frobenius norms; 0 for weights that are all zero."""
        return (self.error / self.weight) ** 0.5 if self.weight else 0.0


class Quantizer:
    """Quantizes weights with buffers of its own; one for each thread.

    block: None, a scale for each row; else a scale for each `block` rows and `block` columns.
    """

    def __init__(self, block: int | None) -> None:
        self.block = block
        self._buffers: dict[tuple[int, ...], _Buffers] = {}

    def quantize(self, weight: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, SquaredError]:
        """`weight` [R, N] float32, bfloat16 or float16 -> `q` [R, N] e4m3, filled, and the scales
        in the weight's dtype, [R, 1] or [ceil(R / block), N / block].

        Raises ValueError if a weight is not finite.
        """
        rows, width = weight.shape
        grouped = (rows, width // (self.block or width), self.block or width)
        weight, q = weight.view(grouped), q.view(grouped)
        pieces = list(self._pieces(*grouped))
        largest = self._largest(weight, pieces)
        if not largest.isfinite().all():
            raise ValueError("not finite")
        scale = scales_of(largest, weight.dtype)
        total = SquaredError()
        for piece, of_piece in pieces:
            total.add(self._piece(weight[piece], q[piece], scale[of_piece].unsqueeze(2)))
        return scale.to(weight.dtype), total

    def _pieces(
        self, rows: int, groups: int, group: int
    ) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """The rows and groups of each piece of the weights, and those of its scales."""
        height = self.block or max(1, PIECE // group)
        across = max(1, PIECE // (height * group))
        for top in range(0, rows, height):
            row = slice(top, min(top + height, rows))
            of_scale = slice(top // height, top // height + 1) if self.block else row
            for left in range(0, groups, across):
                column = slice(left, min(left + across, groups))
                yield (row, column), (of_scale, column)

    def _largest(self, weight: torch.Tensor, pieces: list) -> torch.Tensor:
        """The largest magnitudes that share a scale, float32. Without the sign, a float's bits are
        an integer of the same order; what is not finite comes out so."""
        kind = torch.int32 if weight.dtype == torch.float32 else torch.int16
        rows, groups, _ = weight.shape
        largest = torch.empty(-(-rows // (self.block or 1)), groups, dtype=kind)
        bits = weight.view(kind)
        for piece, of_piece in pieces:
            part = bits[piece]
            magnitude = self._buffer(part.shape).magnitudes(kind)
            torch.bitwise_and(part, torch.iinfo(kind).max, out=magnitude)
            most = magnitude.amax(2)
            largest[of_piece] = most.amax(0) if self.block else most
        return largest.view(weight.dtype).float()

    def _piece(self, weight: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> SquaredError:
        """Fill `q` for one piece: weight and q [R, G, N], scale [R or 1, G, 1]."""
        buffer = self._buffer(weight.shape)
        exact, work = buffer.exact, buffer.work
        exact.copy_(weight)
        torch.div(exact, scale, out=work)
        q.copy_(work)
        # q / 256: the bits of an e4m3, moved up seven places below the sign, are those of a float16
        # with an exponent eight lower. This is several times as fast as torch's own conversion.
        bits = buffer.bits.copy_(q.view(torch.int8))
        bits.bitwise_left_shift_(7).bitwise_and_(~0x4000)
        work.copy_(bits.view(torch.float16))
        error = work.mul_(scale * 256).sub_(exact)
        return SquaredError(_squares(error), _squares(exact))

    def _buffer(self, shape: torch.Size) -> _Buffers:
        """Kept from call to call: fresh memory costs more than the arithmetic."""
        if shape not in self._buffers:
            self._buffers[shape] = _Buffers.of(shape)
        return self._buffers[shape]


@dataclass(frozen=True)
class _Buffers:
    """Memory for a piece of one shape: float32 twice, and 16 bits."""

    exact: torch.Tensor
    work: torch.Tensor
    bits: torch.Tensor

    @classmethod
    def of(cls, shape: torch.Size) -> _Buffers:
        return cls(torch.empty(shape), torch.empty(shape), torch.empty(shape, dtype=torch.int16))

    def magnitudes(self, kind: torch.dtype) -> torch.Tensor:
        return self.bits if kind == torch.int16 else self.work.view(kind)


def _squares(x: torch.Tensor) -> float:
    flat = x.view(-1)
    total = torch.dot(flat, flat).item()
    if not 1e-20 < total < 1e30:  # squares may have left float32's range
        total = flat.double().square().sum().item()
    return total
