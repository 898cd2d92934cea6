"""`Weights`: where the layers of a model take their tensors from while they are built.

A model asks for each tensor by name and shape. Behind it stands a checkpoint, or a `Layout`, which
only notes what was asked for. So one description of an architecture loads it, checks a file's
headers against it before anything is read, and says which modules can be quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from hala_engine.errors import InputError
from hala_engine.weights.checkpoint import Checkpoint
from hala_engine.weights.quantization import BLOCK, Scheme, Schemes, dequantize


@dataclass(frozen=True)
class Placement:
    """How a model's weights are held and multiplied.

    invariant: a token's result does not depend on the others' in the batch, bit for bit.
    fp8: FP8 weights stay FP8 and are multiplied so; else they are de-quantized once, here.
    rank, ranks: this process's share of a tensor-parallel model.
    """

    dtype: torch.dtype
    device: torch.device
    invariant: bool = False
    fp8: bool = False
    rank: int = 0
    ranks: int = 1


class Source(Protocol):
    def read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None) -> torch.Tensor:
        """The tensor `name` of `shape`; of dimension `dim` only `part`, unless that is None."""

    def find_scales(self, name: str, count: int) -> torch.Tensor | None:
        """The tensor `name` of one scale or `count` of them, or None where there is none."""


class CheckpointSource:
    """Reads from a checkpoint that has been checked."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None) -> torch.Tensor:
        return self._checkpoint.read(name, dim=dim, part=part)

    def find_scales(self, name: str, count: int) -> torch.Tensor | None:
        return self._checkpoint.read(name) if name in self._checkpoint.entries else None


@dataclass
class Layout:
    """Notes the tensors that an architecture asks for, and hands out empty ones.

    `tensors`: shapes by name. `scales`: how many, by the name of a tensor that may be absent.
    """

    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scales: dict[str, int] = field(default_factory=dict)

    def read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None) -> torch.Tensor:
        self.tensors[name] = shape
        return torch.empty(shape, device="meta")

    def find_scales(self, name: str, count: int) -> torch.Tensor | None:
        self.scales[name] = count
        return None


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
class Weights:
    """Tensors under `prefix`, as `place` wants them. Raises InputError, naming the module, where
    tensor parallelism cannot cut a tensor."""

    source: Source
    place: Placement
    schemes: Schemes = field(default_factory=dict)
    prefix: str = ""

    def at(self, name: str | int) -> Weights:
        """The weights of a module inside this one."""
        return Weights(self.source, self.place, self.schemes, f"{self.prefix}{name}.")

    def tensor(self, name: str, *shape: int) -> nn.Parameter:
        """A whole tensor in the model's dtype."""
        return frozen(self._placed(self.source.read(self.prefix + name, shape, 0, None)))

    def scales(self, name: str, count: int) -> torch.Tensor:
        """This rank's `count` float32 scales, from a tensor of one for all or one for each; ones
        where the checkpoint has none."""
        place = self.place
        found = self.source.find_scales(self.prefix + name, count * place.ranks)
        if found is None:
            return torch.ones(count, device=place.device)
        scale = found.float().reshape(-1)
        if len(scale) > count:
            scale = scale[place.rank * count : (place.rank + 1) * count]
        # Not a view of the file, which may go away.
        return torch.ones(count, device=place.device).copy_(scale)

    def matrix(
        self, in_features: int, parts: dict[str, int], bias: bool, split: str | None
    ) -> Matrix:
        """The matrices `parts`, name -> height, on top of each other, and their biases.

        split: "out" gives this rank its share of each part's rows, "in" of the columns.
        """
        blocks = [
            self.at(name)._block(height, in_features, split) for name, height in parts.items()
        ]
        biases = torch.cat([block.read_bias() for block in blocks]) if bias else None
        scheme = blocks[0].scheme
        as_fp8 = self.place.fp8 and scheme and scheme.activations
        if as_fp8 and all(block.scheme == scheme for block in blocks):
            return Matrix(_fp8_pieces(blocks), biases, _activations(blocks))
        return Matrix((Piece(_dense(blocks)),), biases, None)

    def _block(self, height: int, width: int, split: str | None) -> _Block:
        module = self.prefix.removesuffix(".")
        rows = self._share(height, module) if split == "out" else slice(0, height)
        columns = self._share(width, module) if split == "in" else slice(0, width)
        return _Block(self, self.schemes.get(module), (height, width), rows, columns)

    def _share(self, size: int, module: str) -> slice:
        place = self.place
        if size % place.ranks:
            raise InputError(
                f"--tensor-parallel {place.ranks} does not divide the {size} rows or columns of "
                f"{module}"
            )
        share = size // place.ranks
        return slice(place.rank * share, (place.rank + 1) * share)

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the model's dtype: the file may go away under a view of it."""
        return tensor.to(device=self.place.device, dtype=self.place.dtype, copy=True)


@dataclass(frozen=True)
class _Block:
    """One checkpoint matrix of `shape`, of which `rows` and `columns` are wanted."""

    weights: Weights
    scheme: Scheme | None
    shape: tuple[int, int]
    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def read_bias(self) -> torch.Tensor:
        bias = self._read("bias", (self.shape[0],), 0, self.rows)
        return self.weights._placed(bias)

    def read_weight(self) -> torch.Tensor:
        """[N, K], as it is on disk."""
        if self.columns.stop - self.columns.start < self.shape[1]:
            return self._read("weight", self.shape, 1, self.columns)
        whole = self.rows.stop - self.rows.start == self.shape[0]
        return self._read("weight", self.shape, 0, None if whole else self.rows)

    def read_scale(self) -> torch.Tensor:
        """float32 [N, 1], [1, 1] or [ceil(N/128), ceil(K/128)], of the rows and columns wanted."""
        scale = self._read(self.scheme.scale, self.scheme.scale_shapes(*self.shape)[0], 0, None)
        scale = scale.float()
        if self.scheme.weights == "tensor":
            return scale.reshape(1, 1)
        if self.scheme.weights == "channel":
            return scale.reshape(-1, 1)[self.rows]
        return scale[self._in_blocks(self.rows, 0), self._in_blocks(self.columns, 1)]

    def read_input_scale(self) -> torch.Tensor:
        return self._read(self.scheme.input_scale, (1,), 0, None).float().reshape(1, 1)

    def _in_blocks(self, part: slice, dim: int) -> slice:
        cut_inside = part.start % BLOCK or (part.stop % BLOCK and part.stop < self.shape[dim])
        if cut_inside:
            place = self.weights.place
            raise InputError(
                f"--tensor-parallel {place.ranks} cuts {self.weights.prefix}weight inside a block "
                f"of {BLOCK} that shares a scale"
            )
        return slice(part.start // BLOCK, -(-part.stop // BLOCK))

    def _read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None):
        return self.weights.source.read(self.weights.prefix + name, shape, dim, part)


def _dense(blocks: list[_Block]) -> torch.Tensor:
    """The blocks on top of each other in the model's dtype, de-quantized one at a time."""
    place = blocks[0].weights.place
    rows = sum(block.size[0] for block in blocks)
    out = torch.empty(rows, blocks[0].size[1], dtype=place.dtype, device=place.device)
    for block, target in zip(blocks, out.split([b.size[0] for b in blocks]), strict=True):
        weight = block.read_weight()
        if block.scheme:
            weight = dequantize(weight, block.read_scale(), place.dtype)
        target.copy_(weight)
    return out


def _fp8_pieces(blocks: list[_Block]) -> tuple[Piece, ...]:
    """The blocks on top of each other in e4m3. Blocks of scales must begin where a matrix begins,
    so matrices of other heights than multiples of 128 stay apart."""
    device = blocks[0].weights.place.device
    blocked = blocks[0].scheme.weights == "block"
    if blocked and any(block.size[0] % BLOCK for block in blocks[:-1]):
        return tuple(piece for block in blocks for piece in _fp8_pieces([block]))
    heights = [block.size[0] for block in blocks]
    weight = torch.empty(sum(heights), blocks[0].size[1], dtype=torch.float8_e4m3fn, device=device)
    scales = []
    for block, target in zip(blocks, weight.split(heights), strict=True):
        target.copy_(block.read_weight())
        scale = block.read_scale()
        scales.append(scale if blocked else scale.expand(block.size[0], 1))
    return (Piece(weight, torch.cat(scales).contiguous().to(device)),)


def _activations(blocks: list[_Block]) -> Activations:
    kind = blocks[0].scheme.activations
    if kind == "tensor":
        # One product has one input: matrices that were calibrated apart share the widest range.
        scales = [block.read_input_scale() for block in blocks]
        static = torch.stack(scales).amax(0).to(blocks[0].weights.place.device)
        return Activations(static=static)
    return Activations(group=BLOCK if kind == "group" else None)


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter that takes no gradient."""
    return nn.Parameter(tensor, requires_grad=False)
