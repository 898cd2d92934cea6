"""The packed gated convolution against a loop over tokens in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels.backend import forced
from hala_kernels.short_conv import ConvLayout, short_conv
from hala_kernels.tuning import forcing
from tests.kernels.compare import assert_near

SLOTS = 9


def exact(bcx, weight, bias, state):
    """One sequence [T, 3N] and its state [K-1, N], token by token; (y, new state)."""
    b, c, x = bcx.double().chunk(3, -1)
    columns = torch.cat((state.double(), b * x))
    taps = weight.shape[1]
    bias = torch.zeros(1, device=bcx.device) if bias is None else bias
    y = torch.zeros_like(c)
    for t in range(len(bcx)):
        y[t] = (columns[t : t + taps] * weight.double().T).sum(0) + bias.double()
    return c * y, columns[len(columns) - (taps - 1) :]


class Problem:
    """Random inputs for sequences of `lengths`; bcx and states are views with spare columns."""

    def __init__(self, lengths, taps, channels, dtype, device, *, bias=True, taps_first=True):
        self.lengths, self.taps = lengths, taps
        wide = torch.randn(sum(lengths), 3 * channels + 8, device=device).to(dtype)
        self.bcx = wide[:, 8:]
        weight = torch.randn(taps, channels, device=device).to(dtype).t()
        self.weight = weight if taps_first else weight.contiguous()
        self.bias = torch.randn(channels, device=device).to(dtype) if bias else None
        self.pool = torch.randn(1 + SLOTS, taps, channels, device=device).to(dtype)
        self.states = self.pool[1:, 1:]
        self.slots = torch.randperm(SLOTS, device=device)[: len(lengths)]

    def layout(self, lengths=None):
        lengths = torch.tensor(lengths or self.lengths, dtype=torch.int64)
        return ConvLayout.of(lengths, self.taps).to(self.bcx.device)

    def run(self):
        args = (self.bcx, self.weight, self.bias, self.states, self.slots, self.layout())
        return short_conv(*args)

    def check(self):
        before, outside = self.states.clone(), (self.pool[0].clone(), self.pool[:, 0].clone())
        tolerance = 4e-6 if self.bcx.dtype == torch.float32 else None
        got = self.run()
        assert got.dtype == self.bcx.dtype
        y, start = [], 0
        for slot, n in zip(self.slots.tolist(), self.lengths, strict=True):
            old = before[slot] if slot >= 0 else torch.zeros_like(before[0])
            want, state = exact(self.bcx[start : start + n], self.weight, self.bias, old)
            y.append(want)
            if slot >= 0:
                torch.testing.assert_close(self.states[slot], state.to(before.dtype))
            start += n
        assert_near(got, torch.cat(y), tolerance)
        untouched = sorted(set(range(SLOTS)) - set(self.slots.tolist()))
        assert torch.equal(self.states[untouched], before[untouched])
        assert torch.equal(self.pool[0], outside[0]) and torch.equal(self.pool[:, 0], outside[1])


LENGTHS = [[1], [1, 1, 1], [5], [2, 7, 1, 3], [1, 30, 2], [0, 4, 0, 1, 0], [0], []]


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_chunks_with_states_match_float64(taps, lengths, dtype, implementation, device):
    if lengths:
        Problem(lengths, taps, 6, dtype, device).check()
    else:
        problem = Problem([1], taps, 6, dtype, device)
        problem.bcx, problem.slots, problem.lengths = problem.bcx[:0], problem.slots[:0], []
        layout = ConvLayout.of(torch.zeros(0, dtype=torch.int64), taps).to(device)
        args = (problem.weight, problem.bias, problem.states, problem.slots, layout)
        assert short_conv(problem.bcx, *args).shape == (0, 6)


@pytest.mark.parametrize("lengths", [[1] * 9, [3, 1, 40]])
@pytest.mark.parametrize("channels", [130, 520])
@pytest.mark.parametrize("taps_first", [True, False])
def test_widths_beyond_a_block(lengths, channels, taps_first, implementation, device):
    args = (lengths, 3, channels, torch.bfloat16, device)
    Problem(*args, bias=False, taps_first=taps_first).check()


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=7),
    taps=st.integers(2, 4),
    block=st.sampled_from([4, 8]),
    padded=st.sets(st.integers(0, SLOTS - 1), max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_any_lengths_match_float64(lengths, taps, block, padded):
    """Small tiles: sequences begin, end and are padding at every place in one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = {"BLOCK_T": block, "BLOCK_N": 16, "num_warps": 1}
    tables = (forcing(f"short_conv_{name}", config) for name in ("step", "chunks"))
    with forced("triton"), next(tables), next(tables):
        problem = Problem(lengths, taps, 3, torch.float32, device)
        problem.slots[[i for i in padded if i < len(lengths)]] = -1
        problem.check()


@pytest.mark.parametrize("lengths", [[1, 1, 1, 1], [1, 4, 2, 9]])
def test_negative_slots_start_from_zeros_and_write_nothing(lengths, implementation, device):
    problem = Problem(lengths, 3, 6, torch.float32, device)
    problem.slots[[1, 3]] = -1
    problem.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("parts", [[20], [1] * 20, [1, 1, 7, 2, 9], [2, 1, 16, 1], [18, 2]])
def test_split_in_chunks_equals_the_whole(parts, taps, dtype, implementation, device):
    """Bit for bit, whatever else is in the batch: prefill, chunks, and token after token."""
    torch.manual_seed(0)
    problem = Problem([3, 20, 2], taps, 40, dtype, device)
    bcx, slot = problem.bcx[3:23], problem.slots[1:2]
    split_states = problem.states.clone()
    whole = problem.run()[3:23]
    args = (problem.weight, problem.bias, split_states, slot)
    chunks = [short_conv(part, *args, problem.layout([len(part)])) for part in bcx.split(parts)]
    assert torch.equal(torch.cat(chunks), whole)
    assert torch.equal(split_states[slot], problem.states[slot])


def test_a_sequence_does_not_depend_on_its_neighbours(implementation, device):
    problem = Problem([1, 6, 1, 11, 2], 3, 40, torch.bfloat16, device)
    before = problem.states.clone()
    whole, start = problem.run(), 0
    for i, n in enumerate(problem.lengths):
        states, slot = before.clone(), problem.slots[i : i + 1]
        args = (problem.weight, problem.bias, states, slot, problem.layout([n]))
        alone = short_conv(problem.bcx[start : start + n], *args)
        assert torch.equal(alone, whole[start : start + n])
        assert torch.equal(states[slot], problem.states[slot])
        start += n


def test_large_and_zero_values_stay_finite(implementation, device):
    problem = Problem([1, 7, 3], 3, 6, torch.bfloat16, device)
    problem.bcx[2:5] *= 1e12
    problem.bcx[6] = 0
    y = problem.run()
    assert torch.isfinite(y.float()).all() and (y[6] == 0).all()


def test_what_does_not_go_together_is_refused(device):
    with pytest.raises(ValueError, match="2, 3 or 4 taps"):
        ConvLayout.of(torch.tensor([3]), 5)

    def refused(match, **changes):
        problem = Problem([2, 1], 3, 6, torch.float32, device)
        for name, change in changes.items():
            setattr(problem, name, change(getattr(problem, name)))
        with pytest.raises(ValueError, match=match):
            problem.run()

    refused("B, C, x of 3 tokens", bcx=lambda x: x[:2])
    refused("B, C, x of 3 tokens", bcx=lambda x: x[:, :12])
    refused("a layout for 4", taps=lambda _: 4)
    refused("states", states=lambda s: s[:, :1])
    refused("1 slots for 2 sequences", slots=lambda s: s[:1])


def test_columns_that_do_not_follow_each_other_are_refused(device, triton_kernels):
    problem = Problem([2, 1], 3, 6, torch.float32, device)
    problem.bcx = problem.bcx.t().contiguous().t()
    with pytest.raises(ValueError, match="contiguous"):
        problem.run()
