"""LFM2's short convolution for packed rows, in plain PyTorch.

A causal convolution of K taps mixes each token with the K-1 before it in the row, so in a packed
row the first tokens of a document would read the end of its neighbour; neither an attention mask
nor position ids prevent that. `transformers` resets it only inside the CUDA package
`causal_conv1d`, and refuses packed rows without it. Here each tap is a shifted product, kept only
where the shifted token belongs to the same document. That is exact, runs anywhere, and under
torch.compile becomes one pass over memory.

Replaces the forward of the model's own modules from outside, so weights, names and checkpoints are
those of `transformers`.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn


def packed_short_conv(
    u: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, documents: torch.Tensor
) -> torch.Tensor:
    """Depthwise causal convolution that starts afresh at each document.

    u [R, L, C], weight [C, K], documents [R, L] (equal ids = same document) -> [R, L, C]
    """
    taps = weight.shape[1]
    y = u * weight[:, -1]
    for back in range(1, taps):
        same = (documents[:, back:] == documents[:, :-back]).unsqueeze(-1)
        shifted = F.pad(u[:, :-back] * same, (0, 0, back, 0))
        y = y + shifted * weight[:, -1 - back]
    return y if bias is None else y + bias


def _forward(self, hidden_states: torch.Tensor, seq_idx: torch.Tensor, **_) -> torch.Tensor:
    b, c, x = self.in_proj(hidden_states).chunk(3, dim=-1)  # each [R, L, C]
    y = c * packed_short_conv(b * x, self.conv.weight[:, 0], self.conv.bias, seq_idx)
    return self.out_proj(y)


def patch(model: nn.Module) -> None:
    """Make every short convolution of `model` honour the `seq_idx` passed to the forward."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    for module in model.modules():
        if isinstance(module, Lfm2ShortConv):
            module.forward = MethodType(_forward, module)
