"""Scales and e4m3 values against a float64 reference that is made from the formats' definitions."""

from __future__ import annotations

import math

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize as peer_quantize

from hala_engine.quantize.e4m3 import PIECE, Quantizer, scales_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BLOCK = 128


def e4m3_values() -> torch.Tensor:
    """Every finite e4m3 value, by its byte, float64 [256]; NaN where there is none."""
    values = []
    for byte in range(256):
        sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
        if exponent == 15 and mantissa == 7:
            values.append(math.nan)
            continue
        if exponent:
            value = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        else:
            value = mantissa / 8 * 2.0**-6
        values.append(-value if sign else value)
    return torch.tensor(values, dtype=torch.float64)


VALUES = e4m3_values()
FINITE = VALUES[~VALUES.isnan()].unique()


def reference_scale(largest: float, dtype: torch.dtype) -> float:
    """Eight significant bits, rounded up; a float16 below its normal range has fewer."""
    smallest = 2.0**-24 if dtype == torch.float16 else 2.0**-100
    fraction, exponent = math.frexp(largest / 448)
    scale = math.ceil(fraction * 256) * 2.0 ** (exponent - 8)
    if dtype == torch.float16:
        scale = math.ceil(scale / smallest) * smallest
    return max(scale, smallest)


def blocks_of(shape: tuple[int, int], block: int | None) -> list[tuple[slice, slice]]:
    rows, columns = shape
    height, width = (block, block) if block else (1, columns)
    return [
        (slice(r, r + height), slice(c, c + width))
        for r in range(0, rows, height)
        for c in range(0, columns, width)
    ]


def check(weight: torch.Tensor, block: int | None, quantizer: Quantizer | None = None) -> None:
    q = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scale, error = (quantizer or Quantizer(block)).quantize(weight, q)
    assert scale.dtype == weight.dtype
    exact, recovered = weight.double(), torch.empty(weight.shape, dtype=torch.float64)
    places = blocks_of(weight.shape, block)
    assert scale.numel() == len(places)
    for place, one in zip(places, scale.double().view(-1).tolist(), strict=True):
        part = exact[place]
        assert one == reference_scale(part.abs().max().item(), weight.dtype)
        got = VALUES[q[place].view(torch.uint8).long()]
        nearest = (part.unsqueeze(-1) - FINITE * one).abs().amin(-1)
        # One rounding of w / scale to float32 comes before the rounding to e4m3.
        slack = part.abs() * 2.0**-24 if weight.dtype == torch.float32 else 0
        assert ((part - got * one).abs() <= nearest + slack).all()
        recovered[place] = got * one
    norm = exact.norm().item()
    if norm:
        assert error.relative == pytest.approx((exact - recovered).norm().item() / norm, rel=1e-4)
    else:
        assert error.relative == 0


def random_weight(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) * 0.05).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 300), (33, 129), (2, 4099)])
def test_channels(shape, dtype):
    check(random_weight(*shape, dtype), None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 128), (127, 128), (129, 256), (300, 384), (128, 1280)])
def test_blocks(shape, dtype):
    check(random_weight(*shape, dtype), BLOCK)


@pytest.mark.parametrize("block", [None, BLOCK])
def test_a_weight_of_several_pieces(block):
    """Rows, and columns of a block, that do not fit one piece."""
    weight = random_weight(260, 1152, torch.bfloat16)
    assert weight.numel() > 2 * PIECE
    check(weight, block)


@pytest.mark.parametrize("block", [None, BLOCK])
def test_buffers_are_kept_between_weights_of_other_shapes(block):
    quantizer = Quantizer(block)
    for seed, rows in enumerate((5, 130, 5, 64)):
        check(random_weight(rows, 256, torch.bfloat16, seed), block, quantizer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [None, BLOCK])
def test_zero_rows_and_extreme_magnitudes(block, dtype):
    weight = random_weight(256, 256, dtype)
    weight[0] = 0
    weight[1] *= 1e-6
    weight[2, :] = torch.finfo(dtype).smallest_normal / 2
    weight[3, 7] = torch.finfo(dtype).max / 2
    weight[4, 0::2] *= 1e3
    weight[128:, 128:] = 0  # a block of zeros
    check(weight, block)


def test_a_weight_of_zeros_has_no_error_and_a_scale():
    weight = torch.zeros(4, 8, dtype=torch.bfloat16)
    q = torch.ones(4, 8).to(torch.float8_e4m3fn)
    scale, error = Quantizer(None).quantize(weight, q)
    assert (q.float() == 0).all() and (scale > 0).all() and error.relative == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_are_exact_in_every_dtype_that_readers_keep_them_in(dtype):
    """vLLM holds scales in float32, compressed-tensors in the model's dtype."""
    largest = torch.logspace(-6, 4, 5001)
    scale = scales_of(largest, dtype)
    assert (scale >= largest / 448).all()
    assert (scale <= largest / 448 * (1 + 2.0**-7) + 2.0**-24).all()
    assert scale.bfloat16().float().equal(scale)
    if dtype == torch.float16:
        assert scale.half().float().equal(scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [None, BLOCK])
@pytest.mark.parametrize("bad", ["inf", "-inf", "nan", "every bit"])
def test_what_is_not_finite_is_refused(bad, block, dtype):
    weight = random_weight(130, 256, dtype)
    if bad == "every bit":
        kind = torch.int32 if dtype == torch.float32 else torch.int16
        weight.view(kind)[129, 255] = -1
    else:
        weight[129, 255] = float(bad)
    with pytest.raises(ValueError, match="not finite"):
        Quantizer(block).quantize(weight, torch.empty(weight.shape, dtype=torch.float8_e4m3fn))


@pytest.mark.parametrize("block", [None, BLOCK])
def test_values_are_those_of_compressed_tensors_for_the_same_scales(block):
    """In float32; in bfloat16 that package rounds twice."""
    weight = random_weight(200, 256, torch.bfloat16)
    q = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scale, _ = Quantizer(block).quantize(weight, q)
    strategy = {"strategy": "block", "block_structure": [BLOCK, BLOCK]} if block else {
        "strategy": "channel"
    }  # fmt: skip
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, **strategy)
    theirs = peer_quantize(weight.float(), scale.float(), None, args, dtype=torch.float8_e4m3fn)
    assert theirs.view(torch.uint8).equal(q.view(torch.uint8))
