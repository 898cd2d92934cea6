"""LFM2's short convolution for packed rows.

A causal convolution of K taps mixes each token with the K-1 before it in the row, so in a packed
row the first tokens of a document would read the end of its neighbour; neither an attention mask
nor position ids prevent that. `transformers` resets it only inside the CUDA package
`causal_conv1d`; without it 5.17 ignores the documents' numbers, and 5.23 refuses them
(bench/packing_leak.py). Here the rows of a micro-batch go one after the other through
`hala_kernels`' convolution of packed documents: a kernel on a GPU, and on a CPU plain PyTorch that
torch.compile makes one pass over memory.

Replaces the forward of the model's own modules from outside, so weights, names and checkpoints are
those of `transformers`.
"""

from types import MethodType

import torch
from torch import nn

from hala_kernels.short_conv_packed import short_conv_packed


def _forward(self, hidden_states: torch.Tensor, seq_idx: torch.Tensor, **_) -> torch.Tensor:
    rows, length = seq_idx.shape
    # Numbers run below `length` in each row; a row's own range keeps it from its neighbour.
    documents = seq_idx + length * torch.arange(rows, device=seq_idx.device).unsqueeze(1)
    bcx = self.in_proj(hidden_states).flatten(0, 1)  # [R * L, 3C]
    weight = self.conv.weight[:, 0]
    y = short_conv_packed(bcx, weight, self.conv.bias, documents.flatten())
    return self.out_proj(y.unflatten(0, (rows, length)))


def patch(model: nn.Module) -> None:
    """Make every short convolution of `model` honour the `seq_idx` passed to the forward."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    for module in model.modules():
        if isinstance(module, Lfm2ShortConv):
            module.forward = MethodType(_forward, module)
