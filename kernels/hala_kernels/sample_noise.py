"""The noise that draws a token: a Gumbel number for each (seed, position, token id).

    token = argmax over the kept ids of  y / temperature - ln(E),   E ~ Exp(1)

draws from the softmax (the exponential race), in one pass and without a sort. E is a hash of its
three indices alone, so a request draws the same token whatever runs beside it, and kernel and
reference draw the same one, up to the rounding of a logarithm.

The hash: SplitMix64's finaliser turns (seed, position) into two 32-bit keys and their sum; each of
three rounds adds a key without carry, multiplies by a constant and folds the 64-bit product
(wyhash's step), so a GPU spends two instructions a round. Its 32 bits make v in (0, 1) and
E = -ln(1 - v): the ids that can win have a small v, and near zero a float32 keeps its relative
precision. Near one it does not, and ties would favour low ids. Scores are in units of log2.
"""

from __future__ import annotations

import torch

from hala_kernels.triton_lang import tl, triton

LOG2E = 1.4426950408889634

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FOLD = (0xD2511F53, 0xCD9E8D57, 0x9E3779B1)
_SERIES_BELOW = 1 / 64
_LOW = 0xFFFFFFFF

_golden = tl.constexpr(_GOLDEN)
_mix0, _mix1 = tl.constexpr(_MIX[0]), tl.constexpr(_MIX[1])
_fold0, _fold1, _fold2 = (tl.constexpr(c) for c in _FOLD)
_ln2 = tl.constexpr(1 / LOG2E)
_scale = tl.constexpr(2.0**-32)
_half = tl.constexpr(2.0**-33)
_least = tl.constexpr(2.0**-24)
_ulp = tl.constexpr(2.0**-23)
_series_below = tl.constexpr(_SERIES_BELOW)


@triton.jit
def _mixed(z):
    z = (z ^ (z >> 30)) * _mix0
    z = (z ^ (z >> 27)) * _mix1
    return z ^ (z >> 31)


@triton.jit
def _folded(x, constant):
    product = x.to(tl.uint64) * constant
    return product.to(tl.uint32) ^ (product >> 32).to(tl.uint32)


@triton.jit
def noise_keys(seed, position):
    """Three keys (uint32) of a row; int64 scalars."""
    z = _mixed(seed.to(tl.uint64) * _golden + (position + 1).to(tl.uint64) * _mix0)
    low = z.to(tl.uint32)
    high = (z >> 32).to(tl.uint32)
    return low, high, low + high


@triton.jit
def hash_of(tokens, keys):
    """32 bits for each of `tokens` (int32)."""
    x = _folded(tokens.to(tl.uint32) ^ keys[0], _fold0)
    x = _folded(x ^ keys[1], _fold1)
    return _folded(x ^ keys[2], _fold2)


@triton.jit
def noise_bound(bits):
    """At least `noise_of(bits)` but for rounding, for a few instructions.

    E > v > bits / 2^32, and a float's own bits, read as an integer, are its logarithm, linear
    between powers of two and so too small by at most 0.09.
    """
    return 159.0 - bits.to(tl.float32).to(tl.int32, bitcast=True).to(tl.float32) * _ulp


@triton.jit
def noise_of(bits):
    """-log2(E) with E = -ln(1 - v)."""
    v = bits.to(tl.float32) * _scale + _half
    series = v * (v * (v * (v * 0.25 + 1 / 3) + 0.5) + 1.0)
    whole = -_ln2 * tl.log2(tl.maximum(1.0 - v, _least))
    return -tl.log2(tl.where(v < _series_below, series, whole))


def noise(tokens: torch.Tensor, keys: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """-log2(E) of `tokens` (int64) under `noise_keys_reference`'s keys; shapes that broadcast."""
    x = tokens ^ keys[0]
    for i, constant in enumerate(_FOLD):
        x.mul_(constant)
        x.bitwise_xor_(x >> 32).bitwise_and_(_LOW)
        if i + 1 < len(_FOLD):
            x ^= keys[i + 1]
    v = x.float().mul_(2.0**-32).add_(2.0**-33)
    series = v * 0.25
    for coefficient in (1 / 3, 0.5, 1.0):
        series.add_(coefficient).mul_(v)
    small = v < _SERIES_BELOW
    whole = v.neg_().add_(1.0).clamp_(min=2.0**-24).log2_().mul_(-1 / LOG2E)
    return torch.where(small, series, whole).log2_().neg_()


def noise_keys_reference(seed: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What `noise_keys` computes, for int64 tensors."""
    z = seed * _signed(_GOLDEN) + (position + 1) * _signed(_MIX[0])
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX[0])
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX[1])
    z = z ^ _shift_right(z, 31)
    low, high = z & _LOW, (z >> 32) & _LOW
    return low, high, (low + high) & _LOW


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's int64 shift is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return value - (1 << 64) if value >> 63 else value
