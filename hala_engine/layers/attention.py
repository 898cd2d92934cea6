"""Attention of a step: decode tokens first, each with its whole context in pages, then the packed
prompt chunks."""

from __future__ import annotations

import torch

from hala_engine.batch import Batch
from hala_kernels.paged_attention import paged_attention
from hala_kernels.prefill_attention import prefill_attention


def attend(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, batch: Batch, scale: float
) -> torch.Tensor:
    """`q` [T, Hq, D] -> [T, Hq, D]; the step's K and V are already in the cache."""
    n = batch.num_decodes
    if n == len(q):
        return paged_attention(q, k_cache, v_cache, batch.page_table, batch.context_lens, scale)
    prefill = prefill_attention(
        q[n:],
        k_cache,
        v_cache,
        batch.page_table[n:],
        batch.prefill_bounds,
        batch.context_lens[n:],
        scale,
        max_seqlen=batch.longest_chunk,
    )
    if n == 0:
        return prefill
    decode = paged_attention(
        q[:n], k_cache, v_cache, batch.page_table[:n], batch.context_lens[:n], scale
    )
    return torch.cat((decode, prefill))
