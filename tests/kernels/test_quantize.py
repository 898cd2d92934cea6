"""Quantization to e4m3 against float64, and the kernels against their references bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels import tuning
from hala_kernels.backend import forced
from hala_kernels.quantize import FP8_MAX, SMALLEST_SCALE, quantize, quantize_static
from tests.kernels.e4m3 import assert_recovers, same_bits

SHAPES = [(0, 8), (1, 1), (3, 130), (5, 700), (2, 1300), (2, 3000), (1, 9000)]
DTYPES = [torch.float32, torch.bfloat16]

# Two chunks of 128 columns stay in registers, eight at most: wider rows are read again.
SMALL_BLOCKS = {"ROWS": 2, "BLOCK": 128, "num_warps": 1}


def rows_of_every_size(tokens: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Random rows whose magnitudes run from 1e-38 to 1e38, one of them zero."""
    x = torch.randn(tokens, width) * 10.0 ** torch.linspace(-38, 37.5, tokens)[:, None]
    x[tokens // 2] = 0
    return x.to(dtype)


@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_values_come_back_to_half_a_step(group, tokens, width, implementation, device):
    x = (torch.randn(tokens, width, device=device) * 10).bfloat16()
    q, scale = quantize(x, group)
    assert q.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
    assert_recovers(q, scale, x.double())
    largest = x.float().abs().amax(-1) if width else x.new_zeros(tokens)
    assert ((q.float() * scale.repeat_interleave(group or width, 1)[:, :width]).abs().amax(-1)
            >= largest * 0.999).all()  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize("width", [1, 127, 300, 1025, 5000])
def test_kernel_gives_the_bits_of_the_reference(dtype, group, width, triton_kernels, device):
    x = rows_of_every_size(9, width, dtype).to(device)
    q, scale = quantize(x, group)
    with forced("reference"):
        expected, expected_scale = quantize(x, group)
    assert torch.equal(scale, expected_scale)
    assert same_bits(q, expected)
    assert torch.isfinite(q.float()).all() and torch.isfinite(scale).all()
    assert (q[4].float() == 0).all() and (scale[4] == SMALLEST_SCALE).all()


@pytest.mark.parametrize("width", [256, 1024, 1025, 1500])
def test_rows_beyond_the_registers_are_read_again(width, triton_kernels, device):
    x = rows_of_every_size(3, width, torch.bfloat16).to(device)
    x[2, -1] = 3e38  # the largest of its row, in the last chunk
    with tuning.forcing("quantize_token", SMALL_BLOCKS):
        q, scale = quantize(x)
    with forced("reference"):
        expected, expected_scale = quantize(x)
    assert torch.equal(scale, expected_scale) and same_bits(q, expected)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 6),
    width=st.integers(1, 600),
    group=st.sampled_from([None, 128]),
    exponent=st.integers(-126, 120),
    spread=st.integers(0, 40),
    seed=st.integers(0, 2**31),
)
def test_any_rows_quantize_as_the_reference_does(tokens, width, group, exponent, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=generator)
    x *= 2.0 ** (exponent - torch.randint(0, spread + 1, x.shape, generator=generator))
    x = x.to("cuda" if torch.cuda.is_available() else "cpu")
    with forced("reference"):
        expected, expected_scale = quantize(x, group)
    with forced("triton"):
        q, scale = quantize(x, group)
    assert torch.equal(scale, expected_scale) and same_bits(q, expected)
    assert_recovers(q, scale, x.double())


@pytest.mark.parametrize("group", [None, 128])
def test_what_overflowed_counts_as_the_largest_float(group, implementation, device):
    x = torch.randn(3, 200, device=device)
    x[1, 5] = torch.inf
    x[2, 150] = -torch.inf
    q, scale = quantize(x, group)
    assert torch.isfinite(q.float()).all() and torch.isfinite(scale).all()
    assert q[1, 5].float() == FP8_MAX and q[2, 150].float() == -FP8_MAX


@pytest.mark.parametrize("group", [None, 128])
def test_nan_stays_nan_where_it_was(group, implementation, device):
    x = torch.randn(3, 200, device=device)
    x[1, 5] = torch.nan
    q, _ = quantize(x, group)
    assert q[1, 5].float().isnan() and not q[[0, 2]].float().isnan().any()


@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize("width", [96, 700, 1300])
def test_a_row_does_not_depend_on_its_neighbours(group, width, triton_kernels, device):
    x = torch.randn(7, width, device=device).bfloat16()
    q, scale = quantize(x, group)
    for i in range(7):
        alone, alone_scale = quantize(x[i : i + 1], group)
        assert same_bits(q[i : i + 1], alone) and torch.equal(scale[i : i + 1], alone_scale)


def static(x: torch.Tensor) -> torch.Tensor:
    return quantize_static(x, torch.tensor([0.03], device=x.device))


@pytest.mark.parametrize("operation", [quantize, lambda x: quantize(x, 128), static])
def test_strided_rows(operation, implementation, device):
    wide = torch.randn(5, 700, device=device).bfloat16()
    for view in (wide[:, 100:500], wide[:, 3:400], wide[:, ::2], wide.t()):
        got, want = operation(view), operation(view.contiguous())
        for a, b in zip(got, want, strict=True):
            assert same_bits(a.contiguous(), b.contiguous())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_static_scale_saturates(dtype, tokens, width, implementation, device):
    scale = torch.tensor([0.01], device=device)
    x = (torch.randn(tokens, width, device=device) * 3).to(dtype)
    x[::2] *= 1e30
    q = quantize_static(x, scale)
    assert torch.isfinite(q.float()).all()
    inside = x.double().clamp(-FP8_MAX * 0.01, FP8_MAX * 0.01)
    assert_recovers(q, scale.expand(tokens, 1), inside)
    assert torch.equal(q.float(), quantize_static(x, scale.view(1, 1)).float())
    with forced("reference"):
        assert same_bits(q, quantize_static(x, scale))


def test_bad_arguments_are_refused(implementation, device):
    x = torch.zeros(2, 256, device=device)
    with pytest.raises(ValueError, match="128"):
        quantize(x, 64)
    with pytest.raises(ValueError, match="one number"):
        quantize_static(x, torch.ones(2, device=device))
