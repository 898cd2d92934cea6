"""Linear layers over packed tokens, several checkpoint matrices fused into one where they share
their input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

INVARIANT_ROWS = 64
"""Rows of a batch-invariant product: a GEMM library picks its kernel, and with it the order of the
sum over K, by the number of rows. With that number fixed, a token's result is its own."""


@dataclass(frozen=True)
class Placement:
    """How a model's weights are held and multiplied; `invariant`: rows do not depend on others."""

    dtype: torch.dtype
    device: torch.device
    invariant: bool = False


def frozen(*shape: int, place: Placement) -> nn.Parameter:
    """An uninitialised parameter that takes no gradient; the checkpoint fills it."""
    tensor = torch.empty(*shape, dtype=place.dtype, device=place.device)
    return nn.Parameter(tensor, requires_grad=False)


def invariant_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`F.linear` of `x` [T, K] whose rows do not depend on T, bit for bit."""
    tokens = x.shape[0]
    padded = F.pad(x, (0, 0, 0, -tokens % INVARIANT_ROWS))
    tiles = [F.linear(tile, weight, bias) for tile in padded.split(INVARIANT_ROWS)]
    return torch.cat(tiles)[:tokens] if len(tiles) > 1 else tiles[0][:tokens]


class Linear(nn.Module):
    """y = x W^T + b for one or more row blocks of W: `parts` names the checkpoint's matrices and
    their heights, in order, e.g. {"q_proj": 2048, "k_proj": 512, "v_proj": 512}."""

    def __init__(
        self, in_features: int, parts: dict[str, int], place: Placement, bias: bool = False
    ) -> None:
        super().__init__()
        self.parts = parts
        out_features = sum(parts.values())
        self.weight = frozen(out_features, in_features, place=place)
        self.bias = frozen(out_features, place=place) if bias else None
        self._product = invariant_linear if place.invariant else F.linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, self.weight, self.bias)

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Name in the checkpoint -> the rows of this layer that it fills."""
        tensors, start = {}, 0
        for name, height in self.parts.items():
            tensors[f"{prefix}{name}.weight"] = self.weight[start : start + height]
            if self.bias is not None:
                tensors[f"{prefix}{name}.bias"] = self.bias[start : start + height]
            start += height
        return tensors
