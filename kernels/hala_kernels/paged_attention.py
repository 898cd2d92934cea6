"""Attention of one new token per sequence over its pages (a decode step), grouped query.

    o[b, h] = sum_j softmax_j(scale * q[b, h] . k[b, j, h // G]) v[b, j, h // G],   j < context[b]

with G query heads to one KV head. Floor: the K and V bytes of every context, read once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CONTEXT_BUCKET = 64
"""Sequences are padded to a multiple of this many tokens, with others of the same bucket only: the
shape of the reduction then depends on a sequence's own length, not on its neighbours."""


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`q` [B, Hq, D] attends to the first `context_lens[b]` cached tokens; returns [B, Hq, D].

    `k_cache`, `v_cache` [pages, page_size, Hkv, D]; `page_table` [B, W] int64 page numbers in the
    order of the context (unused entries: any valid page whose content is finite);
    `context_lens` [B] int64 on the CPU, each at least 1 and counting the new token.
    """
    out = torch.empty_like(q)
    buckets = (context_lens + CONTEXT_BUCKET - 1) // CONTEXT_BUCKET
    for bucket in buckets.unique().tolist():
        members = (buckets == bucket).nonzero().squeeze(1)
        whole = len(members) == len(q)
        rows = slice(None) if whole else members.to(q.device)
        out[rows] = _attend_padded(
            q[rows],
            k_cache,
            v_cache,
            page_table[rows],
            context_lens[slice(None) if whole else members],
            bucket * CONTEXT_BUCKET,
            scale,
        )
    return out


def _attend_padded(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    context_lens: torch.Tensor,
    padded_len: int,
    scale: float,
) -> torch.Tensor:
    """All contexts gathered to [B, padded_len] and masked."""
    batch, query_heads, head_dim = q.shape
    page_size, kv_heads = k_cache.shape[1:3]
    width = (padded_len + page_size - 1) // page_size
    pages = page_table[:, :width]
    if pages.shape[1] < width:
        pages = F.pad(pages, (0, width - pages.shape[1]))

    def gather(cache: torch.Tensor) -> torch.Tensor:  # -> [B, Hkv, L, D]
        # index_select copies whole pages; indexing with a tensor goes element by element.
        tokens = cache.index_select(0, pages.flatten()).view(batch, -1, kv_heads, head_dim)
        return tokens[:, :padded_len].transpose(1, 2)

    k, v = gather(k_cache), gather(v_cache)
    valid = torch.arange(padded_len).unsqueeze(0) < context_lens.unsqueeze(1)
    # The G query heads of a KV head stand in the place of query positions, so no KV is repeated.
    grouped = q.view(batch, kv_heads, query_heads // kv_heads, head_dim)
    out = F.scaled_dot_product_attention(
        grouped, k, v, attn_mask=valid.to(q.device)[:, None, None, :], scale=scale
    )
    return out.reshape(batch, query_heads, head_dim)
