"""The training convolution and its gradients against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels.backend import forced
from hala_kernels.short_conv import ConvLayout, short_conv
from hala_kernels.short_conv_packed import short_conv_packed
from hala_kernels.tuning import forcing
from tests.kernels.compare import assert_near


def exact(bcx, weight, bias, documents):
    """Token by token, differentiable."""
    b, c, x = bcx.chunk(3, -1)
    u, taps = b * x, weight.shape[1]
    rows = []
    for t, document in enumerate(documents.tolist()):
        s = torch.zeros_like(u[0]) if bias is None else bias
        for back in range(min(taps, t + 1)):
            if documents[t - back] == document:
                s = s + weight[:, taps - 1 - back] * u[t - back]
        rows.append(c[t] * s)
    return torch.stack(rows) if rows else torch.zeros_like(c)


class Problem:
    """Random inputs for documents of `lengths`, with numbers that do not grow."""

    def __init__(self, lengths, taps, channels, dtype, device, *, bias=True, ids=torch.int64):
        tokens = sum(lengths)
        self.bcx = torch.randn(tokens, 3 * channels + 8, device=device).to(dtype)[:, 8:]
        weight = torch.randn(channels, 1, taps, device=device).to(dtype)
        self.weight = weight[:, 0]
        self.bias = torch.randn(channels, device=device).to(dtype) if bias else None
        numbers = torch.randperm(len(lengths)).to(ids) - 1
        self.documents = numbers.repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
        self.documents = self.documents.to(device)
        self.dy = torch.randn(tokens, channels, device=device).to(dtype)

    def gradients(self, operation, convert=lambda x: x):
        """y, and the gradients of bcx, weight and bias."""
        leaves = [
            convert(x.detach()).requires_grad_()
            for x in (self.bcx, self.weight, self.bias)
            if x is not None
        ]
        inputs = leaves if self.bias is not None else [*leaves, None]
        y = operation(*inputs, self.documents)
        return y, *torch.autograd.grad(y, leaves, convert(self.dy))

    def check(self):
        got = self.gradients(short_conv_packed)
        want = self.gradients(exact, torch.Tensor.double)
        for ours, theirs in zip(got, want, strict=True):
            assert ours.dtype == self.bcx.dtype
            assert_near(ours, theirs.detach(), 8e-6 if ours.dtype == torch.float32 else 1.2e-2)


LENGTHS = [[1], [1, 1, 1], [40], [2, 7, 1, 3], [0, 4, 0, 1]]


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, True), (torch.bfloat16, False)])
def test_output_and_gradients_match_float64(taps, lengths, dtype, bias, implementation, device):
    Problem(lengths, taps, 6, dtype, device, bias=bias).check()


def test_more_channels_than_a_block_and_ids_of_32_bits(implementation, device):
    problem = Problem([3, 20], 3, 530, torch.bfloat16, device, ids=torch.int32)
    problem.check()


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    taps=st.integers(2, 4),
    span=st.integers(1, 7),
)
@settings(max_examples=20, deadline=None)
def test_any_documents_and_walks_match_float64(lengths, taps, span):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = {"SPAN": span, "BLOCK_N": 8, "num_warps": 1}
    tables = (forcing(f"short_conv_packed_{d}", config) for d in ("forward", "backward"))
    with forced("triton"), next(tables), next(tables):
        if sum(lengths):
            Problem(lengths, taps, 3, torch.float32, device).check()


def test_no_tokens(implementation, device):
    problem = Problem([0], 3, 6, torch.float32, device)
    y, d_bcx, d_weight, d_bias = problem.gradients(short_conv_packed)
    assert y.shape == (0, 6) and d_bcx.shape == (0, 18)
    assert (d_weight == 0).all() and (d_bias == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_of_the_reference(bias, device):
    problem = Problem([3, 1, 4], 3, 2, torch.float64, device, bias=bias)
    leaves = [x.requires_grad_() for x in (problem.bcx, problem.weight)]
    if bias:
        leaves.append(problem.bias.requires_grad_())

    def operation(bcx, weight, bias=None):
        return short_conv_packed(bcx, weight, bias, problem.documents)

    with forced("reference"):
        assert torch.autograd.gradcheck(operation, leaves)
        assert_near(
            operation(*leaves).detach(),
            exact(*leaves, *[None] * (not bias), problem.documents).detach(),
        )


def test_gradients_are_the_same_bits_every_time(device, triton_kernels):
    problem = Problem([20, 3, 30], 3, 20, torch.bfloat16, device)
    first, second = (problem.gradients(short_conv_packed) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_documents_do_not_depend_on_their_neighbours(implementation, device):
    """Bit for bit; not even infinities pass from one to another."""
    problem = Problem([5, 20, 7], 3, 20, torch.bfloat16, device)
    y, d_bcx, *_ = problem.gradients(short_conv_packed)
    problem.bcx[:5] = float("inf")
    problem.dy[25:] = float("inf")
    again, d_again, *_ = problem.gradients(short_conv_packed)
    assert torch.equal(again[5:25], y[5:25]) and torch.equal(d_again[5:25], d_bcx[5:25])
    for name in ("bcx", "documents", "dy"):
        setattr(problem, name, getattr(problem, name)[5:25])
    alone, d_alone, *_ = problem.gradients(short_conv_packed)
    assert torch.equal(alone, y[5:25]) and torch.equal(d_alone, d_bcx[5:25])


def test_expanded_gradient(device, triton_kernels):
    problem = Problem([4, 6], 3, 6, torch.float32, device)
    problem.dy = torch.ones(1, 1, device=device).expand(10, 6)
    problem.check()


def test_training_computes_what_the_engine_computes(implementation, device):
    problem = Problem([4, 1, 9], 3, 16, torch.float32, device)
    layout = ConvLayout.of(torch.tensor([4, 1, 9]), 3).to(device)
    states = torch.zeros(3, 2, 16, device=device)
    slots = torch.arange(3, device=device)
    engine = short_conv(problem.bcx, problem.weight, problem.bias, states, slots, layout)
    training = short_conv_packed(problem.bcx, problem.weight, problem.bias, problem.documents)
    torch.testing.assert_close(engine, training)


def test_kernel_passes_through_torch_compile(device, triton_kernels):
    """As one operator, forward and backward, without a graph break."""
    problem = Problem([4, 6], 3, 6, torch.float32, device)
    compiled = torch.compile(short_conv_packed, fullgraph=True, backend="aot_eager")
    want, got = problem.gradients(short_conv_packed), problem.gradients(compiled)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_what_does_not_go_together_is_refused(device):
    problem = Problem([4], 3, 6, torch.float32, device)
    bcx, weight, documents = problem.bcx, problem.weight, problem.documents
    with pytest.raises(ValueError, match="taps"):
        short_conv_packed(bcx, weight[:, :1], None, documents)
    with pytest.raises(ValueError, match="18 columns"):
        short_conv_packed(bcx[:, :17], weight, None, documents)
    with pytest.raises(ValueError, match="a document for each token"):
        short_conv_packed(bcx, weight, None, documents[:3])
    with forced("triton"), pytest.raises(ValueError, match="contiguous"):
        short_conv_packed(bcx.t().contiguous().t(), weight, None, documents)
