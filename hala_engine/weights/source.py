"""Where a model's tensors come from, and where they go: a checkpoint, or a `Layout`, which only
notes what is asked for; and the device, dtype and share that the process wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from hala_engine.weights.checkpoint import Checkpoint


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

    def where(self, name: str) -> str:
        """The file of a tensor, for messages."""


class CheckpointSource:
    """Reads from a checkpoint that has been checked."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None) -> torch.Tensor:
        return self._checkpoint.read(name, dim=dim, part=part)

    def find_scales(self, name: str, count: int) -> torch.Tensor | None:
        return self._checkpoint.read(name) if name in self._checkpoint.entries else None

    def where(self, name: str) -> str:
        return self._checkpoint.where(name)


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

    def where(self, name: str) -> str:
        return "config.json"
