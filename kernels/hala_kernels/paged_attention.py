"""Attention of one new token per sequence over its pages (a decode step), grouped query.

    o[b, h] = sum_j softmax_j(s_j) v[b, j, h // G],   s_j = cap(scale * q[b, h] . k[b, j, h // G])
    over context[b] - window <= j < context[b];   cap(s) = softcap * tanh(s / softcap)

with G query heads to one KV head. Floor: the K and V bytes of every visible position, read once.

The context is cut into splits of SPLIT absolute positions. Each yields a float32 partial, and the
partials are folded in the order of the context. Either one program does that for a whole context,
or, when there are too few of those to fill the device, a program takes each split and a second
kernel folds. Both do the same arithmetic, bit for bit, so the choice may follow the batch.

The C kernel (native/attention.c) gives a token the bits that prefill_attention's gives it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import Device, device_of, launch, use_triton
from hala_kernels.kv_pages import (
    LOWEST,
    add_values,
    attend_explicitly,
    attend_natively,
    block_offsets,
    check,
    check_kernel,
    exp2_constants,
    gathered,
    native_takes,
    page_numbers,
    score_factors,
    soft_capped,
    softmax_step,
)
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

CONTEXT_BUCKET = 64
"""The reference pads sequences to a multiple of this many tokens, with others of the same bucket
only: the shape of the reduction then depends on a sequence's own length, not on its neighbours."""

_ROWS = tl.constexpr(16)
"""Query heads of a program: the least rows of a matrix instruction."""

_UNROLL = tl.constexpr(8)
"""Partials that the fold requests at a time."""

MOST_PARTIAL_BYTES = 256 << 20


@triton.jit
def _fold(peak, total, acc, peak_next, total_next, acc_next):
    """The state over the splits so far, [R] and [R, D], with that of the next split."""
    largest = tl.maximum(peak, peak_next)
    decay, weight = tl.exp2(peak - largest), tl.exp2(peak_next - largest)
    total = tl.fma(total_next, weight, total * decay)
    return largest, total, tl.fma(acc_next, weight[:, None], acc * decay[:, None])


@triton.jit
def _weighted_mean(total, acc, v_scale_ptr, kv_head):
    """acc / total, zero where nothing was visible, times the scale of V."""
    mean = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    if v_scale_ptr is not None:
        mean = mean * tl.load(v_scale_ptr + kv_head)
    return mean


@triton.jit(
    do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["table_ptr", "contexts_ptr"]
)
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    contexts_ptr,
    k_scale_ptr,
    v_scale_ptr,
    out_ptr,
    partial_ptr,  # [splits, B, Hq, D] float32
    stats_ptr,  # [splits, B, Hq, 2] float32: peak and total
    inner,
    outer,
    window,
    q_stride,
    q_head_stride,
    table_stride,
    page_stride,
    row_stride,
    head_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Up to 16 query heads of one KV head; with WHOLE over the whole context, else over a split."""
    GROUP_PARTS: tl.constexpr = (GROUP + _ROWS - 1) // _ROWS
    kv_head = tl.program_id(0) // GROUP_PARTS
    part = tl.program_id(0) % GROUP_PARTS
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)

    context = tl.load(contexts_ptr + batch).to(tl.int32)
    low = context * 0
    if window is not None:
        low = tl.maximum(context - window, 0)
    first_split, end_split = low // SPLIT, (context + SPLIT - 1) // SPLIT
    begin, end = low // BLOCK_N * BLOCK_N, context
    if not WHOLE:
        # The first split writes the zeros of an empty context.
        if (split < first_split) | (split >= tl.maximum(end_split, 1)):
            return
        begin, end = tl.maximum(begin, split * SPLIT), tl.minimum(end, (split + 1) * SPLIT)

    in_group = part * _ROWS + tl.arange(0, _ROWS)
    head = kv_head * GROUP + in_group
    dims = tl.arange(0, D)
    is_head = (in_group < GROUP)[:, None]
    q_rows = q_ptr + batch * q_stride + head[:, None] * q_head_stride
    q = tl.load(q_rows + dims[None, :], mask=is_head, other=0.0)
    factors = score_factors(q, inner, k_scale_ptr, kv_head)
    worth = factors if outer is None else tl.full((_ROWS,), 1.0, tl.float32)
    table_ptr += batch * table_stride
    k_ptr += kv_head.to(tl.int64) * head_stride
    v_ptr += kv_head.to(tl.int64) * head_stride

    peak = tl.full((_ROWS,), LOWEST, tl.float32)
    total = tl.zeros((_ROWS,), tl.float32)
    acc = tl.zeros((_ROWS, D), tl.float32)
    all_peak, all_total, all_acc = peak, total, acc
    pages = page_numbers(table_ptr, begin, low, end, PAGE, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        visible = (position >= low) & (position < end)
        at = block_offsets(pages, start, page_stride, row_stride, PAGE, BLOCK_N, D)
        pages = page_numbers(table_ptr, start + BLOCK_N, low, end, PAGE, BLOCK_N)
        k = tl.load(k_ptr + at, mask=visible[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if outer is not None:
            scores = soft_capped(scores, factors, outer)
        scores = tl.where(visible[None, :], scores, -float("inf"))
        peak, total, weights, decay = softmax_step(peak, total, scores, worth)
        v = tl.load(v_ptr + at, mask=visible[:, None], other=0.0)
        acc = add_values(acc * decay[:, None], weights, v, q)
        if WHOLE and (start + BLOCK_N) % SPLIT == 0:
            all_peak, all_total, all_acc = _fold(all_peak, all_total, all_acc, peak, total, acc)
            peak = tl.full((_ROWS,), LOWEST, tl.float32)
            total = tl.zeros((_ROWS,), tl.float32)
            acc = tl.zeros((_ROWS, D), tl.float32)

    out_row = batch * HEADS + head
    if WHOLE or end_split - first_split <= 1:
        _, total, acc = _fold(all_peak, all_total, all_acc, peak, total, acc)
        mean = _weighted_mean(total, acc, v_scale_ptr, kv_head)
        out_at = out_ptr + out_row[:, None] * D + dims[None, :]
        tl.store(out_at, mean.to(out_ptr.dtype.element_ty), mask=is_head)
    else:
        row = split.to(tl.int64) * (tl.num_programs(1) * HEADS) + out_row
        tl.store(partial_ptr + row[:, None] * D + dims[None, :], acc, mask=is_head)
        tl.store(stats_ptr + row * 2, peak, mask=in_group < GROUP)
        tl.store(stats_ptr + row * 2 + 1, total, mask=in_group < GROUP)


@triton.jit(do_not_specialize_on_alignment=["contexts_ptr"])
def _fold_kernel(
    partial_ptr,
    stats_ptr,
    contexts_ptr,
    v_scale_ptr,
    out_ptr,
    window,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """A query head of a sequence: what `_decode_kernel` does between the splits of a context."""
    head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    context = tl.load(contexts_ptr + batch).to(tl.int32)
    low = context * 0
    if window is not None:
        low = tl.maximum(context - window, 0)
    first_split, end_split = low // SPLIT, (context + SPLIT - 1) // SPLIT
    if end_split - first_split <= 1:
        return  # written already

    out_row = batch * HEADS + head
    one = tl.arange(0, 1)
    dims = tl.arange(0, D)
    peak = tl.full((1,), LOWEST, tl.float32)
    total = tl.zeros((1,), tl.float32)
    acc = tl.zeros((1, D), tl.float32)
    for base in range(first_split, end_split, _UNROLL):
        for i in tl.static_range(_UNROLL):
            split = base + i
            here = one + split < end_split
            row = (one + split).to(tl.int64) * (tl.num_programs(1) * HEADS) + out_row
            peak_next = tl.load(stats_ptr + row * 2, mask=here, other=LOWEST)
            total_next = tl.load(stats_ptr + row * 2 + 1, mask=here, other=0.0)
            acc_at = partial_ptr + row[:, None] * D + dims[None, :]
            acc_next = tl.load(acc_at, mask=here[:, None], other=0.0)
            peak, total, acc = _fold(peak, total, acc, peak_next, total_next, acc_next)
    mean = _weighted_mean(total, acc, v_scale_ptr, head // GROUP)
    out_at = out_ptr + out_row * D + dims[None, :]
    tl.store(out_at, mean.to(out_ptr.dtype.element_ty))


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """`q` [B, Hq, D] attends to the first `context_lens[b]` cached tokens; returns [B, Hq, D].

    `k_cache`, `v_cache` [pages, page_size, Hkv, D] in q's dtype, or e4m3 with `k_scale`, `v_scale`
    [Hkv] float32 (value = cached * scale). `page_table` [B, W] int: page numbers in the order of
    the context. `context_lens` [B] int, on q's device, counts the new token; 0 gives zeros.
    With `window` only the last that many positions are visible, the new token among them; entries
    of the page table beyond the visible range are not used. `softcap` c makes a score s into
    c * tanh(s / c). Raises ValueError for shapes or dtypes that do not fit together; on a GPU the
    head dim is a power of two from 16 to 256 and the page size a power of two.
    """
    check(
        q, k_cache, v_cache, page_table, len(context_lens), scale, window, softcap, k_scale, v_scale
    )
    if len(context_lens) != len(q):
        raise ValueError(f"context_lens has {len(context_lens)} entries for {len(q)} queries")
    if not use_triton(q) and native_takes(q, k_cache, v_cache):
        return attend_natively(
            q, k_cache, v_cache, page_table, None, context_lens, 1, scale, window, softcap
        )
    implementation = _triton if use_triton(q) else _reference
    return implementation(
        q, k_cache, v_cache, page_table, context_lens, scale, window, softcap, k_scale, v_scale
    )


def _triton(
    q, k_cache, v_cache, page_table, context_lens, scale, window, softcap, k_scale, v_scale
) -> torch.Tensor:
    check_kernel(q, k_cache, v_cache)
    batch, heads, head_dim = q.shape
    page_size, kv_heads = k_cache.shape[1:3]
    group = heads // kv_heads
    device = device_of(q)
    config = lookup(
        "paged_attention", device, q=q.element_size(), kv=k_cache.element_size(), d=head_dim
    )
    out = q.new_empty(batch, heads, head_dim)
    longest = page_table.shape[1] * page_size
    splits = max(1, triton.cdiv(longest, config["SPLIT"]))
    rows = batch * heads
    programs = triton.cdiv(group, 16) * kv_heads
    whole = splits == 1 or _fills(device, programs * batch, longest)
    whole = whole or splits * rows * (head_dim + 2) * 4 > MOST_PARTIAL_BYTES
    if whole:
        splits, partial, stats = 1, None, None
    else:
        partial = q.new_empty(splits, rows, head_dim, dtype=torch.float32)
        stats = q.new_empty(splits, rows, 2, dtype=torch.float32)
    inner, outer = exp2_constants(scale, softcap)
    launch(
        _decode_kernel,
        (programs, batch, splits),
        q,
        k_cache,
        v_cache,
        page_table,
        context_lens,
        k_scale,
        v_scale,
        out,
        partial,
        stats,
        inner,
        outer,
        window,
        q.stride(0),
        q.stride(1),
        page_table.stride(0),
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        heads,
        group,
        head_dim,
        page_size,
        whole,
        **config,
    )
    if not whole:
        args = (partial, stats, context_lens, v_scale, out, window, heads, group, head_dim)
        launch(_fold_kernel, (heads, batch), *args, config["SPLIT"], num_warps=1)
    return out


def _fills(device: Device, programs: int, longest: int) -> bool:
    """Whether a program for each context keeps the device busy.

    It does when there are about as many as multiprocessors. Contexts may be unequal: a long one
    ends last, so how long the longest can be is bounded, the more programs the less strictly.
    """
    per_processor = programs / device.multiprocessors
    return per_processor >= 0.75 and longest <= 4096 * max(1, per_processor)


def _reference(
    q, k_cache, v_cache, page_table, context_lens, scale, window, softcap, k_scale, v_scale
) -> torch.Tensor:
    out = torch.zeros_like(q)
    page_size = k_cache.shape[1]
    low = (context_lens - window).clamp(min=0) if window else torch.zeros_like(context_lens)
    first_page = low // page_size
    skipped = first_page * page_size
    buckets = (context_lens - skipped + CONTEXT_BUCKET - 1) // CONTEXT_BUCKET
    for bucket in buckets.unique().tolist():
        if bucket == 0:
            continue
        members = (buckets == bucket).nonzero().squeeze(1)
        # A slice, where all are of one bucket: a view instead of a copy.
        rows = slice(None) if len(members) == len(q) else members
        padded_len = bucket * CONTEXT_BUCKET
        width = (padded_len + page_size - 1) // page_size
        last_page = (context_lens[rows] - 1) // page_size
        wanted = first_page[rows, None] + torch.arange(width, device=q.device)
        # Padding repeats the last page: what other entries point at must not come near.
        pages = page_table[rows].gather(1, wanted.minimum(last_page[:, None]))
        position = skipped[rows, None] + torch.arange(padded_len, device=q.device)
        visible = (position >= low[rows, None]) & (position < context_lens[rows, None])
        out[rows] = _attend_padded(
            q[rows],
            gathered(k_cache, pages, k_scale)[:, :padded_len].transpose(1, 2),
            gathered(v_cache, pages, v_scale)[:, :padded_len].transpose(1, 2),
            visible[:, None, None],
            scale,
            softcap,
        )
    return out


def _attend_padded(q, k, v, visible, scale: float, softcap: float | None) -> torch.Tensor:
    """`q` [B, Hq, D] over `k`, `v` [B, Hkv, L, D], where `visible` [B, 1, 1, L]."""
    batch, heads, head_dim = q.shape
    # The G query heads of a KV head stand in the place of query positions, so no KV is repeated.
    grouped = q.reshape(batch, k.shape[1], heads // k.shape[1], head_dim).to(k.dtype)
    if softcap is None:
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=visible, scale=scale)
    else:
        out = attend_explicitly(grouped, k, v, visible, scale, softcap)
    return out.reshape(batch, heads, head_dim).to(q.dtype)
