"""Products from tiled weights against float64, and against oneDNN's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hala_kernels import linear as tiled
from hala_kernels.backend import forced
from tests.kernels.compare import relative_error

pytestmark = pytest.mark.skipif(
    not tiled.available(), reason="this processor has no tile unit (AMX) with bfloat16"
)

ROWS = [1, 3, 16, 17, 32, 33, 47, 64, 129, 300]
# Wholes of tiles and not, sums in one part and in several (with many rows), more columns than rows.
SHAPES = [(32, 32), (1, 5), (37, 64), (48, 100), (257, 1024), (96, 4608), (40, 8200)]
ACTIVATIONS = ("silu", "gelu_tanh")


def inputs(M: int, N: int, K: int) -> tuple[torch.Tensor, ...]:
    """x, weight, bias, residual."""
    sizes = ((M, K), (N, K), (N,), (M, N))
    return tuple(torch.randn(size).bfloat16() for size in sizes)


def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """act(gate) * up from float64, rounded where torch rounds."""
    gate, up = gate_up.double().chunk(2, -1)
    inner = gate if activation == "silu" else (8 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    return (gate * inner.sigmoid()).bfloat16() * up.bfloat16()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("M", ROWS)
@pytest.mark.parametrize(("N", "K"), SHAPES)
def test_product_is_as_near_to_float64_as_that_of_onednn(M, N, K):
    x, weight, bias, _ = inputs(M, N, K)
    exact = x.double() @ weight.double().T + bias.double()
    got = tiled.linear(x, tiled.pack(weight), bias)
    assert (got.dtype, got.shape) == (torch.bfloat16, (M, N))
    error = relative_error(F.linear(x, weight, bias), exact)
    assert relative_error(got, exact) <= 1.05 * error + 1e-5
    # The sums in float32 leave no error that can be seen beside that of the rounding.
    nearest = relative_error(exact.bfloat16(), exact)
    assert relative_error(got, exact) <= 1.01 * nearest + 1e-5


@pytest.mark.parametrize("M", [1, 33, 100])
def test_residual_is_added_to_the_rounded_product(M):
    x, weight, bias, residual = inputs(M, 100, 256)
    packed = tiled.pack(weight)
    for addend in (residual, torch.randn(M, 300).bfloat16()[:, 50:150], residual.T.clone().T):
        got = tiled.linear(x, packed, bias, addend)
        assert torch.equal(got, tiled.linear(x, packed, bias) + addend)


@pytest.mark.parametrize(("N", "K"), [(257, 1024), (96, 4608), (40, 16384)])
def test_bits_of_a_row_depend_neither_on_the_others_nor_on_threads(N, K, two_threads):
    x, weight, bias, residual = inputs(700, N, K)
    packed = tiled.pack(weight)
    whole = tiled.linear(x, packed, bias, residual)
    for start, count in ((0, 1), (5, 3), (64, 64), (17, 100), (40, 33), (699, 1), (0, 513)):
        part = slice(start, start + count)
        assert torch.equal(tiled.linear(x[part], packed, bias, residual[part]), whole[part])
    torch.set_num_threads(1)
    assert torch.equal(tiled.linear(x, packed, bias, residual), whole)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("M", [1, 17, 47, 300])
@pytest.mark.parametrize(("width", "K"), [(16, 32), (5, 40), (100, 1024)])
def test_gated_product_is_product_then_activation(activation, M, width, K):
    """But for a step of bfloat16 where float32 falls on the other side of a tie, which is rare."""
    x, weight, bias, _ = inputs(M, 2 * width, K)
    x *= 4 / K**0.5
    got = tiled.gated_linear(x, tiled.pack(weight, gated=True), activation, bias)
    want = gated(tiled.linear(x, tiled.pack(weight), bias), activation)
    assert got.shape == (M, width)
    assert ((got != want) & (want.abs() > 1e-9)).sum() <= 2 + 2e-3 * want.numel()
    torch.testing.assert_close(got, want, rtol=2**-6, atol=1e-30)


def test_gates_far_out_are_themselves_or_zero():
    weight = torch.eye(32).bfloat16()
    x = torch.zeros(2, 32).bfloat16()
    x[:, 0], x[:, 1] = 300, -300
    x[:, 16:18] = 2
    for activation in ACTIVATIONS:
        got = tiled.gated_linear(x, tiled.pack(weight, gated=True), activation)
        assert got[:, :2].tolist() == [[600, 0]] * 2


@pytest.mark.parametrize(("N", "K"), [(1, 8), (37, 64), (1000, 100)])
def test_rows_are_those_of_the_weight(N, K):
    weight = torch.randn(N, K).bfloat16()
    packed = tiled.pack(weight)
    assert torch.equal(tiled.rows(packed, torch.arange(N)), weight)
    ids = torch.randint(N, (77,))
    assert torch.equal(tiled.rows(packed, ids), weight[ids])
    assert tiled.rows(packed, ids[:0]).shape == (0, K)
    for wrong in (N, -1):
        with pytest.raises(IndexError, match=str(N)):
            tiled.rows(packed, torch.tensor([0, wrong]))


@pytest.mark.parametrize(("N", "K"), [(2048, 1024), (37, 96)])
def test_strides_do_not_matter(N, K):
    """A weight in huge pages and one in small ones."""
    weight, x = torch.randn(K, N).bfloat16().T, torch.randn(40, 3 * K).bfloat16()[:, K : 2 * K]
    got = tiled.linear(x, tiled.pack(weight))
    assert torch.equal(got, tiled.linear(x.contiguous(), tiled.pack(weight.contiguous())))
    columns = x.T.contiguous().T
    assert torch.equal(got, tiled.linear(columns, tiled.pack(weight)))


def test_a_row_that_is_not_finite_spoils_no_other():
    x, weight, *_ = inputs(40, 64, 100)
    packed = tiled.pack(weight)
    clean = tiled.linear(x, packed)
    x[7], x[39, 99] = float("nan"), float("inf")
    got = tiled.linear(x, packed)
    kept = [i for i in range(40) if i not in (7, 39)]
    assert torch.equal(got[kept], clean[kept])
    assert got[7].isnan().all() and not got[39].isfinite().any()


def test_no_rows_give_no_rows():
    assert tiled.linear(
        torch.empty(0, 64).bfloat16(), tiled.pack(torch.ones(8, 64).bfloat16())
    ).shape == (0, 8)


def test_only_what_fits_is_taken():
    weight = torch.ones(64, 64)
    assert not tiled.can_pack(weight) and tiled.can_pack(weight.bfloat16())
    with forced("reference"):
        assert not tiled.can_pack(weight.bfloat16())
    packed = tiled.pack(weight.bfloat16())
    with pytest.raises(ValueError, match="64"):
        tiled.linear(torch.ones(2, 32).bfloat16(), packed)
    with pytest.raises(ValueError, match="64"):
        tiled.gated_linear(torch.ones(2, 64).bfloat16(), packed, "silu")
