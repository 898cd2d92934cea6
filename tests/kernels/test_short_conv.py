"""The packed gated convolution against a loop over tokens in float64."""

from __future__ import annotations

import pytest
import torch

from hala_kernels.short_conv import ConvLayout, short_conv


def exact(bcx, weight, bias, state):
    """One sequence [T, 3N] and its state [K-1, N], token by token; (y, new state)."""
    b, c, x = bcx.double().chunk(3, -1)
    columns = torch.cat((state.double(), b * x))
    taps = weight.shape[1]
    y = torch.stack(
        [
            (columns[t : t + taps] * weight.double().T).sum(0) + bias.double()
            for t in range(len(bcx))
        ]
    )
    return c * y, columns[-(taps - 1) :]


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [5], [2, 7, 1, 3], [1, 30, 2]])
def test_packed_chunks_with_states_match_float64(taps, lengths):
    torch.manual_seed(taps)
    channels, slots = 6, torch.randperm(9)[: len(lengths)]
    states = torch.randn(9, taps - 1, channels)
    before = states.clone()
    weight, bias = torch.randn(channels, taps), torch.randn(channels)
    bcx = torch.randn(sum(lengths), 3 * channels)
    layout = ConvLayout.of(torch.tensor(lengths), taps)
    got = short_conv(bcx, weight, bias, states, slots, layout)
    start = 0
    for slot, n in zip(slots.tolist(), lengths, strict=True):
        y, state = exact(bcx[start : start + n], weight, bias, before[slot])
        torch.testing.assert_close(got[start : start + n].double(), y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(states[slot].double(), state, atol=1e-6, rtol=1e-6)
        start += n
    untouched = [i for i in range(9) if i not in slots.tolist()]
    assert torch.equal(states[untouched], before[untouched])


def test_split_in_chunks_equals_the_whole():
    torch.manual_seed(0)
    bcx, weight = torch.randn(20, 12), torch.randn(4, 3)
    slot = torch.tensor([0])
    whole_states, split_states = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    of = ConvLayout.of
    whole = short_conv(bcx, weight, None, whole_states, slot, of(torch.tensor([20]), 3))
    parts = [
        short_conv(part, weight, None, split_states, slot, of(torch.tensor([len(part)]), 3))
        for part in bcx.split([1, 1, 7, 2, 9])
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(split_states, whole_states)
