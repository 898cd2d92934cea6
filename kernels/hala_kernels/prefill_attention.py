"""Causal attention of packed prompt chunks, each over its own cached prefix and itself.

The chunk of sequence s holds its tokens at positions context - n .. context - 1; token i of it sees
positions 0 .. context - n + i. K and V of the chunk are already in the cache.
Floor: FLOPs, 4 * D * Hq * (visible pairs).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_seqlens: list[int],
    context_lens: list[int],
    scale: float,
) -> torch.Tensor:
    """`q` [T, Hq, D], packed chunks with bounds `cu_seqlens` (S + 1 ints); returns [T, Hq, D].

    `k_cache`, `v_cache` [pages, page_size, Hkv, D]; `page_table` [S, W]; `context_lens[s]` counts
    the cached prefix and the chunk.
    """
    out = torch.empty_like(q)
    page_size, kv_heads = k_cache.shape[1:3]
    groups = q.shape[1] // kv_heads
    for s, context in enumerate(context_lens):
        start, end = cu_seqlens[s], cu_seqlens[s + 1]
        chunk = end - start
        pages = page_table[s, : (context + page_size - 1) // page_size]
        k = k_cache[pages].flatten(0, 1)[:context].transpose(0, 1)  # [Hkv, L, D]
        v = v_cache[pages].flatten(0, 1)[:context].transpose(0, 1)
        if groups > 1:
            k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        mask = None
        if chunk < context and chunk > 1:
            query_position = torch.arange(context - chunk, context, device=q.device)
            mask = query_position[:, None] >= torch.arange(context, device=q.device)[None, :]
        out[start:end] = F.scaled_dot_product_attention(
            q[start:end].transpose(0, 1).unsqueeze(0),
            k.unsqueeze(0),
            v.unsqueeze(0),
            attn_mask=mask,
            is_causal=chunk == context and chunk > 1,
            scale=scale,
        )[0].transpose(0, 1)
    return out
