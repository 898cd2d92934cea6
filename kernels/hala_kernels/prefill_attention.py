"""Causal attention of packed prompt chunks, each over its own cached prefix and itself.

The chunk of sequence s holds its n tokens at positions context - n ... context - 1; the token at
position p sees max(0, p - window + 1) ... p. K and V of the chunk are already in the cache. Scores
and soft-cap as in paged_attention. Floor: FLOPs, 4 * D * Hq * (visible pairs).

A program takes BLOCK_M rows of one KV head; a row is a token and one of the G query heads, so that
short chunks fill a tile too. It visits the context in blocks that start at multiples of BLOCK_N;
those that every row sees whole take no mask. A row's bits do not depend on how the prompt was
chunked (kv_pages.py says why). Where a page holds whole blocks, sm_90 and later copy the unmasked
ones with tensor descriptors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import device_of, launch, use_triton
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
from hala_kernels.triton_lang import TensorDescriptor, tl, triton
from hala_kernels.tuning import lookup


@triton.jit
def _visit(
    peak,
    total,
    acc,
    q,
    factors,
    k_ptr,
    v_ptr,
    k_rows,
    v_rows,
    table_ptr,
    kv_head,
    outer,
    window,
    query_position,
    lowest,  # the first position that any row sees
    begin,
    end,
    page_stride,
    row_stride,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    MASKED: tl.constexpr,
    BY_DESCRIPTOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The row state peak, total, acc after the blocks from `begin` to `end`."""
    worth = factors if outer is None else tl.full((q.shape[0],), 1.0, tl.float32)
    pages = page_numbers(table_ptr, begin, lowest, end, PAGE, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        if BY_DESCRIPTOR:
            row = pages * PAGE + start % PAGE
            k = k_rows.load([row, kv_head * D])
        else:
            at = block_offsets(pages, start, page_stride, row_stride, PAGE, BLOCK_N, D)
            if MASKED:
                cached = ((position >= lowest) & (position < end))[:, None]
                k = tl.load(k_ptr + at, mask=cached, other=0.0)
            else:
                k = tl.load(k_ptr + at)
        pages = page_numbers(table_ptr, start + BLOCK_N, lowest, end, PAGE, BLOCK_N)
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if outer is not None:
            scores = soft_capped(scores, factors, outer)
        if MASKED:
            visible = position[None, :] <= query_position[:, None]
            if window is not None:
                visible = visible & (position[None, :] > query_position[:, None] - window)
            scores = tl.where(visible, scores, -float("inf"))
        peak, total, weights, decay = softmax_step(peak, total, scores, worth)
        if BY_DESCRIPTOR:
            v = v_rows.load([row, kv_head * D])
        elif MASKED:
            v = tl.load(v_ptr + at, mask=cached, other=0.0)
        else:
            v = tl.load(v_ptr + at)
        acc = add_values(acc * decay[:, None], weights, v, q)
    return peak, total, acc


@triton.jit(
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=["table_ptr", "bounds_ptr", "contexts_ptr"],
)
def _prefill_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    k_rows,  # None, or descriptors of the caches as [pages * PAGE, Hkv * D]
    v_rows,
    table_ptr,
    bounds_ptr,
    contexts_ptr,
    k_scale_ptr,
    v_scale_ptr,
    out_ptr,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # The last blocks of a chunk see the most: they go first, so that short ones fill the gaps.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    first_token = tl.load(bounds_ptr + sequence).to(tl.int32)
    count = tl.load(bounds_ptr + sequence + 1).to(tl.int32) - first_token
    if block * BLOCK_M >= count * GROUP:
        return
    context = tl.load(contexts_ptr + sequence).to(tl.int32)

    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    token, head = row // GROUP, kv_head * GROUP + row % GROUP
    is_row = (token < count)[:, None]
    query_position = context - count + token
    first_query = context - count + block * BLOCK_M // GROUP
    last_query = tl.minimum(context - count + (block * BLOCK_M + BLOCK_M - 1) // GROUP, context - 1)

    dims = tl.arange(0, D)
    packed = (first_token + token).to(tl.int64)
    q_rows = q_ptr + packed[:, None] * q_stride + head[:, None] * q_head_stride
    q = tl.load(q_rows + dims[None, :], mask=is_row, other=0.0)
    factors = score_factors(q, inner, k_scale_ptr, kv_head)
    table_ptr += sequence * table_stride
    k_ptr += kv_head.to(tl.int64) * head_stride
    v_ptr += kv_head.to(tl.int64) * head_stride

    end = last_query + 1
    unmasked_end = (first_query + 1) // BLOCK_N * BLOCK_N
    peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    lowest = context * 0
    if window is not None:
        lowest = tl.maximum(first_query - window + 1, 0)
    begin = lowest // BLOCK_N * BLOCK_N
    # At head dim 256 and with a window registers suffice for one loop: all masked.
    ONE_LOOP: tl.constexpr = window is not None and D >= 256
    if window is not None:
        all_see_from = tl.maximum(last_query - window + 1, 0)
        edge_end = tl.minimum((all_see_from + BLOCK_N - 1) // BLOCK_N * BLOCK_N, end)
        if ONE_LOOP:
            edge_end = end
        peak, total, acc = _visit(
            peak, total, acc, q, factors, k_ptr, v_ptr, None, None, table_ptr, kv_head,
            outer, window, query_position, lowest, begin, edge_end, page_stride, row_stride,
            D, PAGE, True, False, BLOCK_N,
        )  # fmt: skip
        begin = edge_end
    if not ONE_LOOP:
        peak, total, acc = _visit(
            peak, total, acc, q, factors, k_ptr, v_ptr, k_rows, v_rows, table_ptr, kv_head,
            outer, window, query_position, lowest, begin, unmasked_end, page_stride, row_stride,
            D, PAGE, False, k_rows is not None, BLOCK_N,
        )  # fmt: skip
        peak, total, acc = _visit(
            peak, total, acc, q, factors, k_ptr, v_ptr, None, None, table_ptr, kv_head,
            outer, window, query_position, lowest, tl.maximum(begin, unmasked_end), end,
            page_stride, row_stride, D, PAGE, True, False, BLOCK_N,
        )  # fmt: skip

    # Rows past the end of the chunk may have seen nothing.
    mean = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    if v_scale_ptr is not None:
        mean = mean * tl.load(v_scale_ptr + kv_head)
    out_at = out_ptr + (packed * HEADS + head)[:, None] * D + dims[None, :]
    tl.store(out_at, mean.to(out_ptr.dtype.element_ty), mask=is_row)


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    *,
    max_seqlen: int,
    window: int | None = None,
    softcap: float | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """`q` [T, Hq, D], packed chunks of S sequences; returns [T, Hq, D].

    Sequence s owns rows cu_seqlens[s] ... cu_seqlens[s + 1] - 1, none or up to `max_seqlen`;
    `context_lens[s]` counts its cached prefix and the chunk. `cu_seqlens` [S + 1] and
    `context_lens` [S] are int, on q's device. Caches, `page_table` [S, W], `window`, `softcap` and
    scales are as in `paged_attention`; so are the errors raised.
    """
    check(
        q, k_cache, v_cache, page_table, len(context_lens), scale, window, softcap, k_scale, v_scale
    )
    if len(cu_seqlens) != len(context_lens) + 1:
        raise ValueError(f"{len(cu_seqlens)} bounds do not enclose {len(context_lens)} sequences")
    arguments = (q, k_cache, v_cache, page_table, cu_seqlens, context_lens, scale)
    if use_triton(q):
        return _triton(*arguments, max_seqlen, window, softcap, k_scale, v_scale)
    if native_takes(q, k_cache, v_cache):
        return attend_natively(
            q, k_cache, v_cache, page_table, cu_seqlens, context_lens, max_seqlen, scale, window,
            softcap,
        )  # fmt: skip
    return _reference(*arguments, window, softcap, k_scale, v_scale)


def _triton(
    q, k_cache, v_cache, page_table, cu_seqlens, context_lens, scale, max_seqlen, window, softcap,
    k_scale, v_scale,
) -> torch.Tensor:  # fmt: skip
    check_kernel(q, k_cache, v_cache)
    tokens, heads, head_dim = q.shape
    page_size, kv_heads = k_cache.shape[1:3]
    group = heads // kv_heads
    device = device_of(q)
    config = lookup(
        "prefill_attention",
        device,
        q=q.element_size(),
        kv=k_cache.element_size(),
        d=head_dim,
        page=page_size,
    )
    out = q.new_empty(tokens, heads, head_dim)
    k_rows = v_rows = None
    fits = page_size >= config["BLOCK_N"] and k_cache.is_contiguous()
    # At head dim 256 registers do not suffice for both ways of copying.
    if device.has_descriptors and fits and q.dtype != torch.float32 and head_dim < 256:
        block = [config["BLOCK_N"], head_dim]
        k_rows, v_rows = (
            TensorDescriptor.from_tensor(cache.view(-1, kv_heads * head_dim), block)
            for cache in (k_cache, v_cache)
        )
    inner, outer = exp2_constants(scale, softcap)
    launch(
        _prefill_kernel,
        (triton.cdiv(max_seqlen * group, config["BLOCK_M"]), kv_heads, len(context_lens)),
        q,
        k_cache,
        v_cache,
        k_rows,
        v_rows,
        page_table,
        cu_seqlens,
        context_lens,
        k_scale,
        v_scale,
        out,
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
        **config,
    )
    return out


def _reference(
    q, k_cache, v_cache, page_table, cu_seqlens, context_lens, scale, window, softcap, k_scale,
    v_scale,
) -> torch.Tensor:  # fmt: skip
    out = torch.empty_like(q)
    page_size, kv_heads = k_cache.shape[1:3]
    group = q.shape[1] // kv_heads
    bounds = cu_seqlens.tolist()
    for s, context in enumerate(context_lens.tolist()):
        start, end = bounds[s], bounds[s + 1]
        chunk = end - start
        if chunk == 0:
            continue
        prefix = context - chunk
        first_page = max(0, prefix - window + 1) // page_size if window else 0
        skipped = first_page * page_size
        pages = page_table[s : s + 1, first_page : (context + page_size - 1) // page_size]

        def visible_rows(cache, scales, pages=pages, seen=context - skipped):  # -> [Hq, L, D]
            rows = gathered(cache, pages, scales)[0, :seen].transpose(0, 1)
            return rows.repeat_interleave(group, 0) if group > 1 else rows

        k, v = visible_rows(k_cache, k_scale), visible_rows(v_cache, v_scale)
        queries = q[start:end].transpose(0, 1).to(k.dtype)
        beyond_window = window is not None and window < context
        plain_causal = prefix == 0 and not beyond_window
        mask = None
        if softcap is not None or not (plain_causal or (chunk == 1 and not beyond_window)):
            position = torch.arange(skipped, context, device=q.device)
            query_position = torch.arange(prefix, context, device=q.device)[:, None]
            mask = position <= query_position
            if beyond_window:
                mask &= position > query_position - window
        if softcap is not None:
            attended = attend_explicitly(queries, k, v, mask, scale, softcap)
        else:
            attended = F.scaled_dot_product_attention(
                queries.unsqueeze(0),
                k.unsqueeze(0),
                v.unsqueeze(0),
                attn_mask=mask,
                is_causal=plain_causal and chunk > 1,
                scale=scale,
            )[0]
        out[start:end] = attended.transpose(0, 1)
    return out
