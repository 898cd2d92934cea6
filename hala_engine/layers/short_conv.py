"""LFM2's gated short convolution (Liquid AI): out_proj(C * conv(B * x)), where in_proj gives B, C
and x."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.batch import Batch
from hala_engine.layers.linear import Linear
from hala_engine.layers.quantized import Activation
from hala_engine.weights.loading import Weights, frozen
from hala_kernels.short_conv import short_conv


class ShortConv(nn.Module):
    """A causal depthwise convolution of `taps` columns. Tensor parallelism leaves it whole."""

    def __init__(self, w: Weights, hidden: int, taps: int, *, bias: bool) -> None:
        super().__init__()
        self.in_proj = Linear(w, hidden, {"in_proj": 3 * hidden}, bias=bias)
        self.out_proj = Linear(w, hidden, {"out_proj": hidden}, bias=bias)
        # Conv1d's [N, 1, K] turned, so that channels lie side by side.
        weight = w.tensor("conv.weight", hidden, 1, taps)
        self.taps = frozen(weight.squeeze(1).t().contiguous())
        self.bias = w.tensor("conv.bias", hidden) if bias else None

    def forward(self, x: Activation, batch: Batch, states: torch.Tensor) -> torch.Tensor:
        """`x` [T, hidden] -> [T, hidden]; reads and moves on the sequences' `states`."""
        bcx = self.in_proj(x)
        return self.out_proj(
            short_conv(bcx, self.taps.t(), self.bias, states, batch.state_slots, batch.conv)
        )
