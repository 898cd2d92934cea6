"""Device functions of sample_kernels.py: the logits of a row, and the threshold of its filters.

A `source` is (pointer to the row, pointer to its bits of ids seen before, V, parts, logit scale,
soft-cap, penalty), a `shape` the constants (PENALTY, SOFTCAP, PART, ROWS). A `scale` is (largest
logit, log2(e) / temperature): an id's mass is 2^((y - largest) * sharpness). A `target` is
(threshold so far, k, p, mass of the row, whether top-k is on, whether mass is asked for, not k).
"""

from __future__ import annotations

from hala_kernels.triton_lang import tl, triton

_linear_passes = tl.constexpr(8)


@triton.jit
def model_logits(source, tokens, SOFTCAP: tl.constexpr):
    """x at `tokens`, float32; -inf beyond the vocabulary."""
    x = tl.load(source[0] + tokens, mask=tokens < source[2], other=0.0).to(tl.float32) * source[4]
    if SOFTCAP:
        x = source[5] - 2.0 * source[5] / (tl.exp(x * (2.0 / source[5])) + 1.0)
    return tl.where(tokens < source[2], x, float("-inf"))


@triton.jit
def logits_of(part, source, shape):
    """Ids, x and y of parts [R], each [R, PART]; float32, -inf beyond the vocabulary."""
    tokens = part[:, None] * shape[2] + tl.arange(0, shape[2])[None, :]
    x = model_logits(source, tokens, shape[1])
    y = x
    if shape[0]:
        word = part[:, None] * (shape[2] // 32) + tl.arange(0, shape[2] // 32)[None, :]
        words = tl.load(source[1] + word, mask=part[:, None] < source[3], other=0)
        bits = (words[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
        smaller = tl.where(x > 0, x * tl.math.div_rn(1.0, source[6]), x * source[6])
        y = tl.where(tl.reshape(bits, x.shape) != 0, smaller, x)
    return tokens, x, y


@triton.jit
def finite(largest):
    """What to subtract from values of which this is the largest: never -inf."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def mass_of(y, scale):
    return tl.exp2((y - scale[0]) * scale[1])


@triton.jit
def list_parts(wanted, part, list_ptr):
    """Writes the parts that are `wanted` to `list_ptr`, in order; how many they are."""
    flag = wanted.to(tl.int32)
    tl.store(list_ptr + tl.cumsum(flag, axis=0) - flag, part, mask=wanted)
    tl.debug_barrier()
    return tl.sum(flag)


@triton.jit
def listed(start, count, list_ptr, source, shape):
    """Ids and y [ROWS, PART] of the listed parts from `start` on; past the list ids are >= V."""
    at = start + tl.arange(0, shape[3])
    part = tl.load(list_ptr + at, mask=at < count, other=source[3])
    tokens, _, y = logits_of(part, source, shape)
    return tokens, y


@triton.jit
def threshold_bound(best, mass, inside, k, p, with_k, scale, V, PART: tl.constexpr):
    """A value that the threshold of a row's first filter is not below; the mass of the row.

    Of the parts whose maximum reaches t, each holds at least one logit that does, and above t at
    least the mass of its maximum, or all its mass less PART - 1 times that of t. Logits with less
    than 2^-64 of the largest one's mass are never drawn: their threshold is of no interest.
    """
    largest, sharpness = scale
    here = mass_of(best, scale)
    mass = mass * here
    whole = tl.sum(mass)
    target = tl.where(with_k, k, p * whole * (1.0 + 1e-5))
    # Below `beneath` the whole vocabulary holds less than 1 - p.
    beneath = tl.log2(tl.maximum((1.0 - p) * whole / V, 1e-30))
    width = tl.where(with_k | (beneath < -64.0), -64.0, tl.minimum(beneath, 0.0)) / sharpness
    low = largest + width
    if with_k & (tl.sum(inside.to(tl.float32)) >= k):
        low = tl.maximum(low, tl.min(tl.where(inside, best, largest)))
    high = largest
    steps = 0
    while (steps < 8) & (low < high):
        steps += 1
        pivot = low + (high - low) * 0.5
        above = tl.where(with_k, 1.0, tl.maximum(here, mass - mass_of(pivot, scale) * PART))
        reach = tl.sum(tl.where((best >= pivot) & inside, above, 0.0))
        low = tl.where(reach >= target, pivot, low)
        high = tl.where(reach >= target, high, pivot)
    return low, whole


@triton.jit
def gather(threshold, count, list_ptr, held_ptr, source, shape, HELD: tl.constexpr):
    """Writes y of what reaches `threshold`, and from HELD on the ids (as bits of floats), in order
    of id; how many they are, or a number over HELD if more."""
    held = 0
    start = 0
    tl.debug_barrier()
    while (start < count) & (held <= HELD):
        tokens, y = listed(start, count, list_ptr, source, shape)
        flag = ((y >= threshold) & (tokens < source[2])).to(tl.int32)
        flag = tl.reshape(flag, (shape[3] * shape[2],))
        at = held + tl.cumsum(flag, axis=0) - flag
        fits = (flag != 0) & (at < HELD)
        tl.store(held_ptr + at, tl.reshape(y, (shape[3] * shape[2],)), mask=fits)
        tokens = tl.reshape(tokens, (shape[3] * shape[2],)).to(tl.float32, bitcast=True)
        tl.store(held_ptr + HELD + at, tokens, mask=fits)
        held += tl.sum(flag)
        start += shape[3]
    tl.debug_barrier()
    return held


@triton.jit
def compare(target, scale, held, held_ptr, HELD: tl.constexpr, AGAINST: tl.constexpr):
    """The smallest held logit with fewer than k, or a mass less than p, strictly above it."""
    threshold, k, p, whole, with_k, by_mass = target
    index = tl.arange(0, HELD)
    y = tl.load(held_ptr + index, mask=index < held, other=float("-inf"))
    if with_k:
        whole = tl.sum(tl.where(y >= threshold, mass_of(y, scale), 0.0))
    wanted = tl.where(by_mass, p * whole, k)
    above = tl.zeros((HELD,), tl.float32)
    for start in range(0, held, AGAINST):
        at = start + tl.arange(0, AGAINST)
        other = tl.load(held_ptr + at, mask=at < held, other=float("-inf"))
        share = tl.where(by_mass, mass_of(other, scale), 1.0)
        larger = other[:, None] > y[None, :]
        above += tl.sum(tl.where(larger, share[:, None], 0.0), axis=0)
    kept = (above < wanted) & (index < held)
    return tl.maximum(threshold, tl.min(tl.where(kept, y, scale[0])))


@triton.jit
def ordinal(x):
    """An int64 that orders float32 scalars as their values."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def value_of(ordinal):
    """The float32 of an `ordinal`."""
    bits = ordinal.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def _reaching(interval, pivots, by_mass, scale, count, list_ptr, source, shape):
    """Number or mass of the listed logits that reach each of three pivots; the smallest and the
    largest logit in the interval, closed below and open above."""
    reach0 = tl.zeros((shape[3],), tl.float32)
    reach1 = tl.zeros((shape[3],), tl.float32)
    reach2 = tl.zeros((shape[3],), tl.float32)
    smallest = tl.full((shape[3],), float("inf"), tl.float32)
    greatest = tl.full((shape[3],), float("-inf"), tl.float32)
    for start in range(0, count, shape[3]):
        _, y = listed(start, count, list_ptr, source, shape)
        share = tl.where(by_mass, mass_of(y, scale), 1.0)
        reach0 += tl.sum(tl.where(y >= pivots[0], share, 0.0), axis=1)
        reach1 += tl.sum(tl.where(y >= pivots[1], share, 0.0), axis=1)
        reach2 += tl.sum(tl.where(y >= pivots[2], share, 0.0), axis=1)
        within = (y >= interval[0]) & (y < interval[1])
        smallest = tl.minimum(smallest, tl.min(tl.where(within, y, float("inf")), axis=1))
        greatest = tl.maximum(greatest, tl.max(tl.where(within, y, float("-inf")), axis=1))
    return tl.sum(reach0), tl.sum(reach1), tl.sum(reach2), tl.min(smallest), tl.max(greatest)


@triton.jit
def split(target, scale, count, list_ptr, source, shape):
    """The largest logit from `threshold` up that k logits, or a mass of p, reach.

    It lies in [low, high): what reaches `low` is enough and what reaches `high` is not. Pivots are
    spread evenly over values, later over representable numbers, which bounds the passes.
    """
    threshold, k, p, whole, with_k, by_mass = target
    low = ordinal(threshold)
    high = ordinal(scale[0]) + 1
    wanted = tl.where(by_mass, p * whole, k)
    # The first pass then finds the mass that top-k kept.
    passes = tl.where(by_mass & with_k, -1, 0)
    while high - low > 1:
        start = value_of(low)
        end = value_of(high)
        step = (tl.minimum(end, scale[0]) - start) * 0.25
        quarter = (high - low) // 4
        linear = passes < _linear_passes
        pivot0 = tl.where(linear, ordinal(start + step), low + quarter)
        pivot1 = tl.where(linear, ordinal(start + 2 * step), low + 2 * quarter)
        pivot2 = tl.where(linear, ordinal(start + 3 * step), low + 3 * quarter)
        pivot0 = tl.where(passes < 0, low, tl.minimum(tl.maximum(pivot0, low + 1), high - 1))
        pivot1 = tl.minimum(tl.maximum(pivot1, low + 1), high - 1)
        pivot2 = tl.minimum(tl.maximum(pivot2, low + 1), high - 1)
        pivots = (value_of(pivot0), value_of(pivot1), value_of(pivot2))
        reach0, reach1, reach2, smallest, greatest = _reaching(
            (start, end), pivots, by_mass, scale, count, list_ptr, source, shape
        )
        wanted = tl.where(passes < 0, p * reach0, wanted)
        passes += 1
        if smallest == greatest:
            low = ordinal(greatest)
            high = low + 1
        elif reach2 >= wanted:
            low = pivot2
        elif reach1 >= wanted:
            low = pivot1
            high = pivot2
        elif reach0 >= wanted:
            low = pivot0
            high = pivot1
        else:
            high = pivot0
    return value_of(low)
