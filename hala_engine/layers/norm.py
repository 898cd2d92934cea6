"""RMS norm and layer norm with their weights, giving the input that the next product takes."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.layers.quantized import Activation, InputForm, Quantized
from hala_engine.weights.loading import Weights
from hala_kernels.norm import (
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    layer_norm_quantize,
    rms_norm,
    rms_norm_quantize,
)


class RMSNorm(nn.Module):
    """`plus_one`: the weight is an offset from 1 (Gemma)."""

    def __init__(
        self, w: Weights, name: str, size: int, eps: float, *, plus_one: bool = False
    ) -> None:
        super().__init__()
        self.weight = w.tensor(f"{name}.weight", size)
        self.eps = eps
        self.plus_one = plus_one

    def forward(self, x: torch.Tensor, form: InputForm | None = None) -> Activation:
        """The norm of `x` [T, N], in `form`."""
        if form is None:
            return rms_norm(x, self.weight, self.eps, plus_one=self.plus_one)
        values, scale, _ = rms_norm_quantize(
            x, self.weight, self.eps, plus_one=self.plus_one, group=form.group
        )
        return Quantized(values, scale)

    def add(
        self,
        x: torch.Tensor | None,
        residual: torch.Tensor,
        form: InputForm | None = None,
        *,
        after: RMSNorm | None = None,
    ) -> tuple[Activation, torch.Tensor]:
        """The norm of `x + residual`, in `form`, and that sum; `x` normed first by `after`.
        `x` None: the first layer, with nothing to add yet."""
        if x is None:
            return self(residual, form), residual
        options = {
            "plus_one": self.plus_one,
            "input_weight": None if after is None else after.weight,
        }
        if form is None:
            return add_rms_norm(x, residual, self.weight, self.eps, **options)
        values, scale, total = rms_norm_quantize(
            x, self.weight, self.eps, residual=residual, group=form.group, **options
        )
        return Quantized(values, scale), total


class LayerNorm(nn.Module):
    """Mean-subtracting, with a weight and no bias (Cohere)."""

    def __init__(self, w: Weights, name: str, size: int, eps: float) -> None:
        super().__init__()
        self.weight = w.tensor(f"{name}.weight", size)
        self.eps = eps

    def forward(self, x: torch.Tensor, form: InputForm | None = None) -> Activation:
        """The norm of `x` [T, N], in `form`."""
        if form is None:
            return layer_norm(x, self.weight, self.eps)
        values, scale, _ = layer_norm_quantize(x, self.weight, self.eps, group=form.group)
        return Quantized(values, scale)

    def add(
        self, x: torch.Tensor | None, residual: torch.Tensor, form: InputForm | None = None
    ) -> tuple[Activation, torch.Tensor]:
        """The norm of `x + residual`, in `form`, and that sum; `x` as in `RMSNorm.add`."""
        if x is None:
            return self(residual, form), residual
        if form is None:
            return add_layer_norm(x, residual, self.weight, self.eps)
        values, scale, total = layer_norm_quantize(
            x, self.weight, self.eps, residual=residual, group=form.group
        )
        return Quantized(values, scale), total
