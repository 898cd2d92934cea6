"""The kernels of sample.py. A row is cut into parts of PART logits; two launches make the token.

`_scan_kernel` reads every logit once and leaves a few numbers for each part: the largest y of a
greedy or filtered row, with its share of the softmax; of an unfiltered row an upper bound of the
scores, far cheaper than they are. `_finish_kernel`, a program a row, reads those, and of the row
itself only the parts that can matter:

- greedy: the part of the largest y;
- unfiltered: parts whose bound reaches the best exact score of the most promising part;
- filtered: the parts' maxima bound the threshold from below (where k of them exceed a value, so do
  k logits). Logits above the bound are gathered, and when no more than HELD are, each is compared
  with all others, which gives the threshold exactly. Else (a flat distribution) the threshold is
  found by passes over the row, each splitting the interval that holds it in four.

Sums run in an order that depends on V alone, and no result depends on the scan's configuration.
Whether a row needs a filter is read on the device.
"""

from __future__ import annotations

import torch

from hala_kernels.backend import device_of, launch
from hala_kernels.sample_filters import (
    compare,
    finite,
    gather,
    list_parts,
    listed,
    logits_of,
    model_logits,
    split,
    threshold_bound,
)
from hala_kernels.sample_noise import LOG2E, hash_of, noise_bound, noise_keys, noise_of
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

COLDEST = 1e-6
"""A positive temperature below this is taken as this."""

_coldest = tl.constexpr(COLDEST)
_log2e = tl.constexpr(LOG2E)
_ln2 = tl.constexpr(1 / LOG2E)


@triton.jit
def _mark_kernel(history_ptr, seen_ptr, V, L, stride, words, BLOCK: tl.constexpr):
    """Sets the bit of every id in `history` [S, L]; ids outside the vocabulary are passed over."""
    blocks = tl.cdiv(L, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(history_ptr + row * stride + column, mask=column < L, other=-1)
    inside = (token >= 0) & (token < V)
    bit = tl.full((BLOCK,), 1, tl.int32) << (token & 31).to(tl.int32)
    tl.atomic_or(seen_ptr + row * words + token // 32, bit, mask=inside, sem="relaxed")


@triton.jit
def _row_params(row, temperature_ptr, filters, V):
    """Temperature, log2(e) / temperature, k, p, min-p (float32); are top-k and top-p on."""
    temperature = tl.load(temperature_ptr + row).to(tl.float32)
    k = tl.load(filters[0] + row)
    p = tl.load(filters[1] + row).to(tl.float32)
    min_p = tl.load(filters[2] + row).to(tl.float32)
    sharpness = tl.math.div_rn(_log2e, tl.maximum(temperature, _coldest))
    return temperature, sharpness, k.to(tl.float32), p, min_p, (k > 0) & (k < V), p < 1.0


@triton.jit
def _scan_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    position_ptr,
    seen_ptr,
    penalty_ptr,
    best_ptr,
    mass_ptr,
    peak_ptr,
    total_ptr,
    V,
    parts,
    stride,
    logit_scale,
    softcap,
    DRAWS: tl.constexpr,
    PENALTY: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LOGPROBS: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS parts of a row a program. Reductions are within a part: the registers of a warp."""
    programs = tl.cdiv(parts, ROWS)
    row = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs * ROWS + tl.arange(0, ROWS)
    inside = part < parts
    out = row * parts + part
    row_ptr = logits_ptr + row * stride
    if PENALTY:
        penalty = tl.load(penalty_ptr + row).to(tl.float32)
        seen_row_ptr = seen_ptr + row * parts * (PART // 32)
        source = (row_ptr, seen_row_ptr, V, parts, logit_scale, softcap, penalty)
    else:
        source = (row_ptr, None, V, parts, logit_scale, softcap, None)
    shape: tl.constexpr = (PENALTY, SOFTCAP, PART, ROWS)
    tokens, x, y = logits_of(part, source, shape)
    if DRAWS:
        filters = (top_k_ptr, top_p_ptr, min_p_ptr)
        temperature, sharpness, _, _, min_p, with_k, with_p = _row_params(
            row, temperature_ptr, filters, V
        )
        if (temperature > 0.0) & ((with_k | with_p | (min_p > 0.0)) == 0):
            keys = noise_keys(tl.load(seed_ptr + row), tl.load(position_ptr + row))
            score = y * sharpness + noise_bound(hash_of(tokens, keys))
            tl.store(best_ptr + out, tl.max(score, axis=1), mask=inside)
        else:
            best = tl.max(y, axis=1)
            tl.store(best_ptr + out, best, mask=inside)
            if (temperature > 0.0) & (with_k | with_p):
                mass = tl.sum(tl.exp2((y - finite(best)[:, None]) * sharpness), axis=1)
                tl.store(mass_ptr + out, mass, mask=inside)
    else:
        tl.store(best_ptr + out, tl.max(y, axis=1), mask=inside)
    if LOGPROBS:
        peak = tl.max(x, axis=1)
        total = tl.sum(tl.exp2((x - finite(peak)[:, None]) * _log2e), axis=1)
        tl.store(peak_ptr + out, peak, mask=inside)
        tl.store(total_ptr + out, total, mask=inside)


@triton.jit
def _race(tokens, y, threshold, least, scale, keys, V):
    """The winner among `tokens` < V that the filters keep, and its score; V and -inf for none."""
    kept = (y >= threshold) & (tokens < V) & ((y - scale[0]) * scale[1] >= least)
    score = tl.where(kept, y * scale[1] + noise_of(hash_of(tokens, keys)), float("-inf"))
    won = tl.max(score)
    return tl.min(tl.where((score == won) & kept, tokens, V)), won


@triton.jit
def _finish_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    position_ptr,
    seen_ptr,
    penalty_ptr,
    best_ptr,
    mass_ptr,
    peak_ptr,
    total_ptr,
    list_ptr,
    held_ptr,
    token_ptr,
    logprob_ptr,
    V,
    parts,
    stride,
    logit_scale,
    softcap,
    DRAWS: tl.constexpr,
    PENALTY: tl.constexpr,
    SOFTCAP: tl.constexpr,
    LOGPROBS: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    HELD: tl.constexpr,
    AGAINST: tl.constexpr,
):
    """A row a program. PARTS >= parts; HELD logits are compared with AGAINST others at a time."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    if PENALTY:
        penalty = tl.load(penalty_ptr + row).to(tl.float32)
        seen_row_ptr = seen_ptr + row * parts * (PART // 32)
        source = (row_ptr, seen_row_ptr, V, parts, logit_scale, softcap, penalty)
    else:
        source = (row_ptr, None, V, parts, logit_scale, softcap, None)
    shape: tl.constexpr = (PENALTY, SOFTCAP, PART, ROWS)
    part = tl.arange(0, PARTS)
    inside = part < parts
    best = tl.load(best_ptr + row * parts + part, mask=inside, other=float("-inf"))
    first = tl.argmax(best, axis=0)
    tokens, _x, y = logits_of(first + tl.arange(0, 1), source, shape)
    token = first * PART + tl.max(tl.argmax(y, axis=1))
    if DRAWS:
        filters = (top_k_ptr, top_p_ptr, min_p_ptr)
        temperature, sharpness, k, p, min_p, with_k, with_p = _row_params(
            row, temperature_ptr, filters, V
        )
        if temperature > 0.0:
            keys = noise_keys(tl.load(seed_ptr + row), tl.load(position_ptr + row))
            list_ptr += row * parts
            held_ptr += row * (2 * HELD)
            largest = finite(tl.max(best))  # of a filtered row; of another it serves no purpose
            scale = (largest, sharpness)
            least = tl.where(min_p > 0.0, tl.log2(tl.maximum(min_p, 1e-30)), float("-inf"))
            threshold = float("-inf")
            whole = 0.0
            if with_k | with_p:
                mass = tl.load(mass_ptr + row * parts + part, mask=inside, other=0.0)
                bound, whole = threshold_bound(best, mass, inside, k, p, with_k, scale, V, PART)
                threshold = bound
            elif min_p > 0.0:
                bound = largest + least / sharpness
                bound -= 1e-5 * (tl.abs(largest) + tl.abs(bound))
            else:
                noise = noise_of(hash_of(tokens, keys))
                bound = tl.max(tl.where(tokens < V, y * sharpness + noise, float("-inf")))
                bound -= 1e-3 + 1e-6 * tl.abs(bound)
            count = list_parts(inside & (best >= bound), part, list_ptr)
            held = HELD + 1  # not gathered
            stage = tl.where(with_k, 0, 1)
            while stage <= tl.where(with_p, 1, 0):  # top-k, then top-p
                if held > HELD:
                    held = gather(threshold, count, list_ptr, held_ptr, source, shape, HELD)
                target = (threshold, k, p, whole, with_k, stage == 1)
                if held <= HELD:
                    threshold = compare(target, scale, held, held_ptr, HELD, AGAINST)
                else:
                    threshold = split(target, scale, count, list_ptr, source, shape)
                stage += 1
            if held <= HELD:
                index = tl.arange(0, HELD)
                held_y = tl.load(held_ptr + index, mask=index < held, other=float("-inf"))
                ids = tl.load(held_ptr + HELD + index, mask=index < held, other=0.0)
                ids = tl.where(index < held, ids.to(tl.int32, bitcast=True), V)
                drawn, _ = _race(ids, held_y, threshold, least, scale, keys, V)
                token = tl.where(drawn < V, drawn, token)
            else:
                won = float("-inf")
                for start in range(0, count, ROWS):
                    ids2, y2 = listed(start, count, list_ptr, source, shape)
                    drawn, score = _race(ids2, y2, threshold, least, scale, keys, V)
                    token = tl.where(score > won, drawn, token)
                    won = tl.maximum(won, score)
    token = tl.minimum(token, V - 1)
    tl.store(token_ptr + row, token.to(tl.int64))
    if LOGPROBS:
        peak = tl.load(peak_ptr + row * parts + part, mask=inside, other=float("-inf"))
        total = tl.load(total_ptr + row * parts + part, mask=inside, other=0.0)
        top = tl.max(peak)
        log_total = tl.log2(tl.sum(total * tl.exp2((peak - finite(top)) * _log2e))) * _ln2
        chosen = model_logits(source, token, SOFTCAP)
        tl.store(logprob_ptr + row, chosen - top - log_total)


def sample_triton(
    logits: torch.Tensor,
    params,
    logit_scale: float,
    softcap: float | None,
    with_logprobs: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `sample.sample` promises, for arguments that it has checked."""
    rows, v = logits.shape
    device = device_of(logits)
    part = part_of(v)
    parts = triton.cdiv(v, part)

    def floats(*shape: int) -> torch.Tensor:
        return logits.new_empty(shape, dtype=torch.float32)

    tokens = logits.new_empty(rows, dtype=torch.int64)
    logprobs = floats(rows) if with_logprobs else None
    peak, total = (floats(rows, parts), floats(rows, parts)) if with_logprobs else (None, None)
    best, columns, seen, penalty = floats(rows, parts), [None] * 6, None, None
    mass = listed = held = None
    finish = lookup("sample_finish", device, v=v)
    if params is not None:
        names = ("temperature", "top_k", "top_p", "min_p", "seed", "position")
        columns = [getattr(params, name).contiguous() for name in names]
        if params.penalty is not None:
            penalty = params.penalty.contiguous()
            seen = _seen(params.history, v, parts * part // 32)
        mass = floats(rows, parts)
        listed = torch.empty_like(mass, dtype=torch.int32)
        held = floats(rows, 2 * finish["HELD"])
    inputs = (logits, *columns, seen, penalty, best, mass, peak, total)
    sizes = (v, parts, logits.stride(0), logit_scale, 1.0 if softcap is None else softcap)
    kind = (params is not None, seen is not None, softcap is not None, with_logprobs, part)
    scan = lookup("sample_scan", device, v=v)
    grid = (rows * triton.cdiv(parts, scan["ROWS"]),)
    launch(_scan_kernel, grid, *inputs, *sizes, *kind, **scan)
    outputs = (listed, held, tokens, logprobs)
    width = triton.next_power_of_2(parts)
    launch(_finish_kernel, (rows,), *inputs, *outputs, *sizes, *kind, width, **finish)
    return tokens, logprobs


def part_of(v: int) -> int:
    """Logits in a part: 128, and more where that made over 2048 parts."""
    part = 128
    while part * 2048 < v:
        part *= 2
    return part


def _seen(history: torch.Tensor, v: int, words: int) -> torch.Tensor:
    """Bit t of row s, [S, words] int32: whether id t is in `history` [S, L]."""
    rows, length = history.shape
    seen = torch.zeros(rows, words, dtype=torch.int32, device=history.device)
    config = lookup("sample_mark", device_of(history), l=length)
    grid = (rows * triton.cdiv(length, config["BLOCK"]),)
    args = (history, seen, v, length, history.stride(0), words)
    launch(_mark_kernel, grid, *args, **config)
    return seen
