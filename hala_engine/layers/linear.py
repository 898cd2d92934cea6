"""Linear layers over packed tokens, several checkpoint matrices fused into one where they share
their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

INVARIANT_ROWS = 64
"""Rows of a batch-invariant product: a GEMM library picks its kernel, and with it the order of the
sum over K, by the number of rows. With that number fixed, a token's result is its own."""

PACK_ROWS = 32
"""Rows that the packed layout is chosen for: those of a decode step."""


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


Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def packed_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`F.linear` with a weight from `pack`."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def pack(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in the blocked layout that oneDNN multiplies from.

    With a plain weight oneDNN lays it out anew in every product, which takes longer than the
    product itself when there are few tokens.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACK_ROWS)


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies such weights on this processor."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def invariant_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    product: Product = F.linear,
) -> torch.Tensor:
    """`product` of `x` [T, K] whose rows do not depend on T, bit for bit."""
    tokens = x.shape[0]
    padded = F.pad(x, (0, 0, 0, -tokens % INVARIANT_ROWS))
    tiles = [product(tile, weight, bias) for tile in padded.split(INVARIANT_ROWS)]
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
        self._invariant = place.invariant
        self._product: Product = F.linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._invariant:
            return invariant_linear(x, self.weight, self.bias, self._product)
        return self._product(x, self.weight, self.bias)

    def pack(self) -> None:
        """Once the weight has been filled: hold it as the processor multiplies it."""
        if can_pack(self.weight):
            packed = pack(self.weight)
            del self.weight
            self.weight = packed
            self._product = packed_linear

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Name in the checkpoint -> the rows of this layer that it fills."""
        tensors, start = {}, 0
        for name, height in self.parts.items():
            tensors[f"{prefix}{name}.weight"] = self.weight[start : start + height]
            if self.bias is not None:
                tensors[f"{prefix}{name}.bias"] = self.bias[start : start + height]
            start += height
        return tensors
