"""LFM2's gated short convolution over packed sequences, with its state read and updated.

in_proj gives B, C, x for each token. With u = B * x and K taps,

    y_t = C_t * (sum_{j<K} w_j * u_{t-K+1+j} + bias),

where u before a sequence's first token in this step comes from its state, the K-1 columns of u that
preceded it (zeros at the start). Floor: read 3N columns and write N for a token, and the state of
each sequence once in and once out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ConvLayout:
    """Where the rows of a step lie in a buffer with K-1 state rows before each sequence.

    `tokens` [T]: row of each token; `state_in`, `state_out` [S, K-1]: rows before the sequence's
    first token, and its last rows. The same for every layer of a step, so made once.
    """

    tokens: torch.Tensor
    state_in: torch.Tensor
    state_out: torch.Tensor
    rows: int

    @classmethod
    def of(cls, seqlens: torch.Tensor, taps: int) -> ConvLayout:
        """`seqlens` [S] int64: the tokens of each sequence in this step, each at least 1."""
        history = taps - 1
        sequences = torch.arange(len(seqlens))
        ends = torch.cumsum(seqlens, 0) + (sequences + 1) * history
        of_token = torch.repeat_interleave(sequences, seqlens)
        back = torch.arange(history)
        return cls(
            tokens=torch.arange(len(of_token)) + (of_token + 1) * history,
            state_in=(ends - seqlens - history)[:, None] + back,
            state_out=(ends - history)[:, None] + back,
            rows=len(of_token) + len(seqlens) * history,
        )

    def to(self, device: torch.device) -> ConvLayout:
        return ConvLayout(
            self.tokens.to(device), self.state_in.to(device), self.state_out.to(device), self.rows
        )


def short_conv(
    bcx: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    states: torch.Tensor,
    slots: torch.Tensor,
    layout: ConvLayout,
) -> torch.Tensor:
    """`bcx` [T, 3N] -> y [T, N]; `states[slots]` is read, and overwritten with the new state.

    `weight` [N, K] depth-wise taps, oldest first; `bias` [N] or None; `states` [slots, K-1, N];
    `slots` [S] int64, without repeats.
    """
    b, c, x = bcx.chunk(3, dim=-1)
    taps = weight.shape[1]
    history = torch.empty(layout.rows, x.shape[1], dtype=x.dtype, device=x.device)
    history.index_copy_(0, layout.tokens, b * x)
    history[layout.state_in] = states[slots]
    states[slots] = history[layout.state_out]
    history, weight = history.float(), weight.float()
    y = history.index_select(0, layout.tokens) * weight[:, taps - 1]
    for j in range(taps - 1):
        y.addcmul_(history.index_select(0, layout.tokens - (taps - 1 - j)), weight[:, j])
    if bias is not None:
        y += bias.float()
    return c * y.to(c.dtype)
