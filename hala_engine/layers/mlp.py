"""The gated MLP: down(silu(gate(x)) * up(x)), gate and up in one product."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.layers.linear import Linear, Placement
from hala_kernels.activation import silu_mul


class GatedMLP(nn.Module):
    """`names` are the checkpoint's names of the gate, up and down matrices."""

    def __init__(
        self, hidden: int, width: int, names: tuple[str, str, str], place: Placement
    ) -> None:
        super().__init__()
        gate, up, down = names
        self.gate_up = Linear(hidden, {gate: width, up: width}, place)
        self.down = Linear(width, {down: hidden}, place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(silu_mul(self.gate_up(x)))

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        return self.gate_up.checkpoint_tensors(prefix) | self.down.checkpoint_tensors(prefix)
