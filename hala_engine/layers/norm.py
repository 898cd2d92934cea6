"""RMS norm with its weight."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.layers.linear import Placement, frozen
from hala_kernels.norm import add_rms_norm, rms_norm


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float, place: Placement) -> None:
        super().__init__()
        self.weight = frozen(size, place=place)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm of `x + residual`, and that sum."""
        return add_rms_norm(x, residual, self.weight, self.eps)
