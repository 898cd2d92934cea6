"""The weights of one product, put together from the checkpoint's matrices: on top of each other
where they share an input, dense or in e4m3, whole or a rank's share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hala_engine.errors import InputError
from hala_engine.weights.quantization import BLOCK, Scheme, dequantize, share_a_product
from hala_engine.weights.source import Placement, Source
from hala_kernels import linear as tiled


@dataclass(frozen=True)
class Activations:
    """How the input of an FP8 product is quantized: `static` holds the one scale to use; else one
    is found for each token, or for each `group` columns of it."""

    group: int | None = None
    static: torch.Tensor | None = None


@dataclass(frozen=True)
class Piece:
    """Rows of a matrix: `weight` [N, K], and, if it is e4m3, its `scale` [N, 1] or
    [ceil(N/128), ceil(K/128)] float32."""

    weight: torch.Tensor
    scale: torch.Tensor | None = None


@dataclass(frozen=True)
class Matrix:
    """The weights of one product; several pieces only where their scales cannot be joined."""

    pieces: tuple[Piece, ...]
    bias: torch.Tensor | None
    activations: Activations | None


@dataclass(frozen=True)
class Part:
    """The matrix of the checkpoint's module `name`, of `shape`, of which `rows` and `columns` are
    wanted."""

    source: Source
    place: Placement
    name: str
    scheme: Scheme | None
    shape: tuple[int, int]
    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def read_bias(self) -> torch.Tensor:
        bias = self._read("bias", (self.shape[0],), 0, self.rows)
        return placed(bias, self.place)

    def read_weight(self) -> torch.Tensor:
        """[N, K], as it is on disk."""
        if self.columns.stop - self.columns.start < self.shape[1]:
            return self._read("weight", self.shape, 1, self.columns)
        whole = self.rows.stop - self.rows.start == self.shape[0]
        return self._read("weight", self.shape, 0, None if whole else self.rows)

    def read_scale(self) -> torch.Tensor:
        """float32 [N, 1], [1, 1] or [ceil(N/128), ceil(K/128)], of the rows and columns wanted."""
        scale = self._scale(self.scheme.scale, self.scheme.scale_shapes(*self.shape)[0])
        if self.scheme.weights == "tensor":
            return scale.reshape(1, 1)
        if self.scheme.weights == "channel":
            return scale.reshape(-1, 1)[self.rows]
        return scale[self._in_blocks(self.rows, 0), self._in_blocks(self.columns, 1)]

    def read_input_scale(self) -> torch.Tensor:
        return self._scale(self.scheme.input_scale, (1,)).reshape(1, 1)

    def _scale(self, suffix: str, shape: tuple[int, ...]) -> torch.Tensor:
        scale = self._read(suffix, shape, 0, None).float()
        if not scale.isfinite().all():
            name = f"{self.name}.{suffix}"
            raise InputError(
                f"{self.source.where(name)}: tensor {name} has an infinite or NaN scale; "
                "copy or download the checkpoint again"
            )
        return scale

    def _in_blocks(self, part: slice, dim: int) -> slice:
        cut_inside = part.start % BLOCK or (part.stop % BLOCK and part.stop < self.shape[dim])
        if cut_inside:
            raise InputError(
                f"--tensor-parallel {self.place.ranks} cuts {self.name}.weight inside a block of "
                f"{BLOCK} that shares a scale"
            )
        return slice(part.start // BLOCK, -(-part.stop // BLOCK))

    def _read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None):
        return self.source.read(f"{self.name}.{name}", shape, dim, part)


def join(parts: list[Part], *, bias: bool) -> Matrix:
    """`parts` on top of each other, with their biases: in e4m3 if they are quantized alike and FP8
    is wanted, else in the model's dtype."""
    biases = torch.cat([part.read_bias() for part in parts]) if bias else None
    if parts[0].place.fp8 and share_a_product([part.scheme for part in parts]):
        return Matrix(_fp8_pieces(parts), biases, _activations(parts))
    return Matrix((Piece(_dense(parts)),), biases, None)


def placed(tensor: torch.Tensor, place: Placement) -> torch.Tensor:
    """A copy in the model's dtype: the file may go away under a view of it."""
    return tensor.to(device=place.device, dtype=place.dtype, copy=True)


def _dense(parts: list[Part]) -> torch.Tensor:
    """The parts on top of each other in the model's dtype, de-quantized one at a time."""
    place = parts[0].place
    out = _empty(sum(part.size[0] for part in parts), parts[0].size[1], place)
    for part, target in zip(parts, out.split([p.size[0] for p in parts]), strict=True):
        weight = part.read_weight()
        if part.scheme:
            weight = dequantize(weight, part.read_scale(), place.dtype)
        target.copy_(weight)
    return out


def _empty(rows: int, columns: int, place: Placement) -> torch.Tensor:
    """Where the product packs the matrix and drops this copy, it is memory that goes back to the
    system: an allocator would keep the holes."""
    if place.device.type == "cpu" and place.dtype == torch.bfloat16 and tiled.available():
        return tiled.large_empty(rows * columns).view(rows, columns)
    return torch.empty(rows, columns, dtype=place.dtype, device=place.device)


def _fp8_pieces(parts: list[Part]) -> tuple[Piece, ...]:
    """The parts on top of each other in e4m3. Blocks of scales must begin where a matrix begins,
    so matrices of other heights than multiples of 128 stay apart."""
    device = parts[0].place.device
    blocked = parts[0].scheme.weights == "block"
    if blocked and any(part.size[0] % BLOCK for part in parts[:-1]):
        return tuple(piece for part in parts for piece in _fp8_pieces([part]))
    heights = [part.size[0] for part in parts]
    weight = torch.empty(sum(heights), parts[0].size[1], dtype=torch.float8_e4m3fn, device=device)
    scales = []
    for part, target in zip(parts, weight.split(heights), strict=True):
        target.copy_(part.read_weight())
        scale = part.read_scale()
        scales.append(scale if blocked else scale.expand(part.size[0], 1))
    return (Piece(weight, torch.cat(scales).contiguous().to(device)),)


def _activations(parts: list[Part]) -> Activations:
    kind = parts[0].scheme.activations
    if kind == "tensor":
        # One product has one input: matrices that were calibrated apart share the widest range.
        scales = [part.read_input_scale() for part in parts]
        static = torch.stack(scales).amax(0).to(parts[0].place.device)
        return Activations(static=static)
    return Activations(group=BLOCK if kind == "group" else None)
