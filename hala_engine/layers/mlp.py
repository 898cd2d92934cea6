"""The gated MLP: down(act(gate(x)) * up(x)), gate and up in one product."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.layers.linear import Linear
from hala_engine.layers.quantized import Activation, Quantized
from hala_engine.weights.loading import Weights
from hala_kernels.activation import (
    gelu_tanh_mul,
    gelu_tanh_mul_quantize,
    silu_mul,
    silu_mul_quantize,
)

ACTIVATIONS = {
    "silu": ("silu", silu_mul, silu_mul_quantize),
    "gelu_pytorch_tanh": ("gelu_tanh", gelu_tanh_mul, gelu_tanh_mul_quantize),
}


class GatedMLP(nn.Module):
    """`names` are the checkpoint's names of the gate, up and down matrices."""

    def __init__(
        self,
        w: Weights,
        hidden: int,
        width: int,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
        *,
        activation: str = "silu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        gate, up, down = names
        name, self._activate, self._activate_quantize = ACTIVATIONS[activation]
        heights = {gate: width, up: width}
        self.gate_up = Linear(w, hidden, heights, bias=bias, activation=name, split="out")
        self.down = Linear(w, width, {down: hidden}, bias=bias, split="in")

    def forward(self, x: Activation, residual: torch.Tensor | None = None) -> torch.Tensor:
        """`x` [T, hidden] -> [T, hidden], plus `residual`."""
        gate_up = self.gate_up(x)
        if self.gate_up.is_gated:
            return self.down(gate_up, residual)
        if (form := self.down.input_form) is None:
            return self.down(self._activate(gate_up), residual)
        return self.down(Quantized(*self._activate_quantize(gate_up, form.group)), residual)
