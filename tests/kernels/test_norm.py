"""RMS norm and LayerNorm, with residual, sandwich and quantization, against float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels import norm, tuning
from hala_kernels.backend import forced
from tests.kernels.compare import assert_near
from tests.kernels.e4m3 import assert_recovers, same_bits

EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(0, 8), (1, 1), (5, 33), (9, 64), (3, 130), (3, 1000), (3, 1400), (2, 4100), (1, 9000)]


def exact_rms(x, weight, plus_one=False):
    x = x.double()
    w = weight.double() + plus_one
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * w


def exact_layer(x, weight):
    x = x.double()
    return exact_rms(x - x.mean(-1, keepdim=True), weight)


def inputs(*shape, dtype, device):
    """x, residual, and two weights."""
    x, residual = (torch.randn(*shape, device=device) * s for s in (20.0, 3.0))
    if shape[0] > 1:
        x[1], residual[1] = 0, 0
    weights = (torch.rand(shape[-1], device=device) + 0.5 for _ in range(2))
    return tuple(t.to(dtype) for t in (x, residual, *weights))


@pytest.fixture
def wide(monkeypatch):
    """Every row takes the kernel that reads its row in chunks."""
    monkeypatch.setattr(norm, "WIDEST_HELD", 0)
    with tuning.forcing("norm_wide", {"BLOCK": 256, "num_warps": 1}):
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_norms_match_float64(dtype, tokens, width, implementation, device):
    x, _, weight, _ = inputs(tokens, width, dtype=dtype, device=device)
    got = norm.rms_norm(x, weight, EPS)
    assert got.dtype == dtype
    assert_near(got, exact_rms(x, weight))
    assert_near(norm.rms_norm(x, weight, EPS, plus_one=True), exact_rms(x, weight, True))
    if width > 1:  # of one column nothing is left but rounding
        assert_near(norm.layer_norm(x, weight, EPS), exact_layer(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_norm_is_that_of_the_rounded_total(dtype, tokens, width, implementation, device):
    x, residual, weight, _ = inputs(tokens, width, dtype=dtype, device=device)
    for operation, alone in (
        (norm.add_rms_norm, norm.rms_norm),
        (partial(norm.add_rms_norm, plus_one=True), partial(norm.rms_norm, plus_one=True)),
        (norm.add_layer_norm, norm.layer_norm),
    ):
        got, total = operation(x, residual, weight, EPS)
        assert torch.equal(total, x + residual)
        assert torch.equal(got, alone(total, weight, EPS))


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_sandwich_norms_x_before_it_is_added(
    plus_one, dtype, tokens, width, implementation, device
):
    x, residual, weight, input_weight = inputs(tokens, width, dtype=dtype, device=device)
    got, total = norm.add_rms_norm(
        x, residual, weight, EPS, plus_one=plus_one, input_weight=input_weight
    )
    inner = exact_rms(x, input_weight, plus_one).to(dtype)
    assert_near(total, residual.double() + inner.double())
    assert torch.equal(got, norm.rms_norm(total, weight, EPS, plus_one=plus_one))


def test_sandwich_rounds_the_inner_norm(triton_kernels, device):
    """As a layer that norms and then adds would; but for halves that float32 decides otherwise."""
    x, residual, weight, input_weight = inputs(5, 600, dtype=torch.bfloat16, device=device)
    _, total = norm.add_rms_norm(x, residual, weight, EPS, input_weight=input_weight)
    expected = residual + exact_rms(x, input_weight).bfloat16()
    assert (total != expected).float().mean() < 2e-3


def quantized_forms(x, residual, weight, input_weight, group):
    """(result, the exact norm of its total, the expected total) of each quantized operation."""
    rms, layer = norm.rms_norm_quantize, norm.layer_norm_quantize
    for got, exact, total in (
        (rms(x, weight, EPS, group=group), exact_rms, x),
        (rms(x, weight, EPS, residual=residual, group=group), exact_rms, x + residual),
        (
            rms(x, weight, EPS, residual=residual, plus_one=True, group=group),
            partial(exact_rms, plus_one=True),
            x + residual,
        ),
        (
            rms(x, weight, EPS, residual=residual, input_weight=input_weight, group=group),
            exact_rms,
            norm.add_rms_norm(x, residual, weight, EPS, input_weight=input_weight)[1],
        ),
        (layer(x, weight, EPS, group=group), exact_layer, x),
        (layer(x, weight, EPS, residual=residual, group=group), exact_layer, x + residual),
    ):
        yield got, exact(total, weight), total


@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize(("tokens", "width"), [(0, 8), (5, 33), (3, 130), (3, 1400), (1, 9000)])
def test_quantized_norms_recover_to_half_a_step(group, tokens, width, implementation, device):
    tensors = inputs(tokens, width, dtype=torch.bfloat16, device=device)
    for (q, scale, total), want, expected in quantized_forms(*tensors, group):
        assert scale.shape == (tokens, -(-width // 128) if group else 1)
        assert torch.equal(total, expected)
        assert_recovers(q, scale, want)


@pytest.mark.parametrize("group", [None, 128])
def test_kernel_quantizes_nearly_as_the_reference(group, triton_kernels, device):
    tensors = inputs(5, 700, dtype=torch.bfloat16, device=device)
    ours = [got for got, _, _ in quantized_forms(*tensors, group)]
    with forced("reference"):
        theirs = [got for got, _, _ in quantized_forms(*tensors, group)]
    for (q, scale, _), (expected_q, expected_scale, _) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(scale, expected_scale, rtol=2e-2, atol=0)
        assert (q.float() != expected_q.float()).float().mean() < 0.02


@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize("width", [100, 256, 700])
def test_rows_beyond_the_registers(group, width, wide, triton_kernels, device):
    tensors = inputs(3, width, dtype=torch.bfloat16, device=device)
    x, residual, weight, input_weight = tensors
    assert_near(norm.rms_norm(x, weight, EPS), exact_rms(x, weight))
    assert_near(norm.layer_norm(x, weight, EPS), exact_layer(x, weight))
    got, total = norm.add_rms_norm(
        x, residual, weight, EPS, plus_one=True, input_weight=input_weight
    )
    inner = exact_rms(x, input_weight, True).bfloat16()
    assert_near(total, residual.double() + inner.double())
    assert_near(got, exact_rms(total, weight, True))
    for (q, scale, total), want, expected in quantized_forms(*tensors, group):
        assert torch.equal(total, expected)
        assert_recovers(q, scale, want)


@pytest.mark.parametrize("width", [12288, 12289, 36864])
def test_widest_rows(width, triton_kernels, device):
    x, residual, weight, _ = inputs(1, width, dtype=torch.bfloat16, device=device)
    q, scale, total = norm.rms_norm_quantize(x, weight, EPS, residual=residual)
    assert torch.equal(total, x + residual)
    assert_recovers(q, scale, exact_rms(total, weight))


def plain_results(x, residual, weight, input_weight):
    yield norm.rms_norm(x, weight, EPS)
    yield from norm.add_rms_norm(x, residual, weight, EPS, input_weight=input_weight)
    yield from norm.add_layer_norm(x, residual, weight, EPS)


def quantized_results(x, residual, weight, input_weight):
    for group in (None, 128):
        yield from norm.rms_norm_quantize(
            x, weight, EPS, residual=residual, input_weight=input_weight, group=group
        )
        yield from norm.layer_norm_quantize(x, weight, EPS, residual=residual, group=group)


@pytest.mark.parametrize("results", [plain_results, quantized_results])
@pytest.mark.parametrize("width", [64, 1000, 1400, 2500])
def test_a_row_does_not_depend_on_its_neighbours(results, width, triton_kernels, device):
    x, residual, *weights = inputs(6, width, dtype=torch.bfloat16, device=device)
    together = list(results(x, residual, *weights))
    for i in (0, 3, 5):
        alone = results(x[i : i + 1], residual[i : i + 1], *weights)
        for many, one in zip(together, alone, strict=True):
            assert same_bits(many[i : i + 1].contiguous(), one.contiguous())


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_of_a_fused_projection(dtype, implementation, device):
    fused, other, *_ = inputs(5, 12 * 64, dtype=dtype, device=device)
    weight = (torch.rand(64, device=device) + 0.5).to(dtype)
    heads = fused[:, 2 * 64 : 6 * 64].unflatten(1, (4, 64))  # [5, 4, 64], strides (768, 64, 1)
    residual = other.unflatten(1, (12, 64))[:, ::3]  # strides (768, 192, 1)
    assert_near(norm.rms_norm(heads, weight, EPS), exact_rms(heads, weight))
    got, total = norm.add_rms_norm(heads, residual, weight, EPS)
    assert torch.equal(total, heads + residual)
    assert_near(got, exact_rms(total, weight))
    assert_near(norm.layer_norm(heads, weight, EPS), exact_layer(heads, weight))
    one_stride = fused.view(20, 192)[:, 7:71]  # unaligned too
    assert_near(norm.rms_norm(one_stride, weight, EPS), exact_rms(one_stride, weight))
    turned = fused[:, :320].unflatten(1, (64, 5)).transpose(1, 2)  # columns are not adjacent
    assert_near(norm.rms_norm(turned, weight, EPS), exact_rms(turned, weight))
    four = heads.unflatten(1, (2, 2))
    assert torch.equal(
        norm.rms_norm(four, weight, EPS), norm.rms_norm(heads, weight, EPS).view_as(four)
    )
    assert torch.equal(
        norm.rms_norm(heads[0, 0], weight, EPS), norm.rms_norm(heads, weight, EPS)[0, 0]
    )
    for q, scale, _ in (
        norm.rms_norm_quantize(one_stride, weight, EPS),
        norm.layer_norm_quantize(one_stride, weight, EPS, group=128),
    ):
        assert scale.shape == (20, 1) and torch.isfinite(q.float()).all()


def test_wide_rows_of_a_view(wide, triton_kernels, device):
    fused, other, *_ = inputs(3, 2 * 3 * 300, dtype=torch.bfloat16, device=device)
    weight = torch.rand(300, device=device) + 0.5
    x = fused.unflatten(1, (6, 300))[:, 1:4]
    residual = other.unflatten(1, (6, 300))[:, ::2]
    got, total = norm.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert_near(got, exact_rms(total, weight))


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.integers(1, 9),
    width=st.integers(2, 400),
    exponent=st.integers(-40, 50),
    group=st.sampled_from([None, 128]),
    seed=st.integers(0, 2**31),
)
def test_any_rows_quantize_to_half_a_step(tokens, width, exponent, group, seed):
    generator = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(tokens, width, generator=generator) for _ in range(2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, residual = ((t * 2.0**exponent).bfloat16().to(device) for t in (x, residual))
    weight = torch.randn(width, generator=generator).to(device)
    with forced("triton"):
        for operation, exact in (
            (norm.rms_norm_quantize, exact_rms),
            (norm.layer_norm_quantize, exact_layer),
        ):
            q, scale, total = operation(x, weight, EPS, residual=residual, group=group)
            assert torch.equal(total, x + residual)
            assert_recovers(q, scale, exact(total, weight))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
@pytest.mark.parametrize("path", ["held", "wide"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_magnitudes_beyond_the_squares_of_float32_give_zero(
    path, dtype, implementation, device, request
):
    if path == "wide":
        request.getfixturevalue("wide")
    x, _, weight, _ = inputs(5, 300, dtype=dtype, device=device)
    x[0], x[2], x[3] = 1e30, x[2] * 1e-30, x[3] * 1e16
    got = norm.rms_norm(x, weight, EPS)
    assert (got[0] == 0).all()
    assert_near(got[1:], exact_rms(x[1:], weight))
    x[0] *= torch.randn(300, device=device).sign().to(dtype)
    assert (norm.layer_norm(x, weight, EPS)[0] == 0).all()
    x[0] = 3e38  # the sum over a row is beyond float32 too
    assert torch.equal(norm.layer_norm(x, weight, EPS)[0], torch.zeros_like(x[0]))
    for group in (None, 128):
        for q, scale, _ in (
            norm.rms_norm_quantize(x, weight, EPS, group=group),
            norm.layer_norm_quantize(x, weight, EPS, group=group),
            norm.rms_norm_quantize(x, weight, EPS, residual=x, group=group),
            norm.layer_norm_quantize(x, weight, EPS, residual=x, group=group),
        ):
            assert torch.isfinite(q.float()).all() and torch.isfinite(scale).all()
            assert (q[0].float() == 0).all() and (q[1].float() == 0).all()


@pytest.mark.parametrize("path", ["held", "wide"])
def test_nan_is_not_hidden(path, implementation, device, request):
    if path == "wide":
        request.getfixturevalue("wide")
    x, _, weight, _ = inputs(3, 300, dtype=torch.bfloat16, device=device)
    x[2, 7] = torch.nan
    for got in (norm.rms_norm(x, weight, EPS), norm.layer_norm(x, weight, EPS)):
        assert got[2].isnan().all() and got[:2].isfinite().all()
    assert norm.rms_norm_quantize(x, weight, EPS)[0][2].float().isnan().any()


def test_reference_rounds_as_transformers_does(device):
    """Lfm2RMSNorm, Gemma2RMSNorm and Cohere2LayerNorm, on the same bits."""
    torch.manual_seed(0)
    x, _, weight, _ = inputs(6, 96, dtype=torch.bfloat16, device=device)
    wide = x.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    centred = wide - wide.mean(-1, keepdim=True)
    scaled = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + EPS)
    with forced("reference"):
        assert torch.equal(norm.rms_norm(x, weight, EPS), weight * normalised.bfloat16())
        got = norm.rms_norm(x, weight, EPS, plus_one=True)
        assert torch.equal(got, (normalised * (1.0 + weight.float())).bfloat16())
        assert torch.equal(norm.layer_norm(x, weight, EPS), (weight.float() * scaled).bfloat16())


def test_bad_arguments_are_refused(implementation, device):
    x, weight = torch.zeros(2, 256, device=device), torch.ones(256, device=device)
    with pytest.raises(ValueError, match="weight of shape"):
        norm.rms_norm(x, weight[:1], EPS)
    with pytest.raises(ValueError, match="residual"):
        norm.add_layer_norm(x, x[:1], weight, EPS)
    with pytest.raises(ValueError, match="residual"):
        norm.add_rms_norm(x, x.bfloat16(), weight, EPS)
    with pytest.raises(ValueError, match="input_weight"):
        norm.rms_norm_quantize(x, weight, EPS, input_weight=weight)
    with pytest.raises(ValueError, match="128"):
        norm.layer_norm_quantize(x, weight, EPS, group=64)
