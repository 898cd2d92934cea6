"""Paged attention and prefill attention against float64 softmax attention."""

from __future__ import annotations

import pytest
import torch

from hala_kernels.paged_attention import CONTEXT_BUCKET, paged_attention
from hala_kernels.prefill_attention import prefill_attention


def exact(q, k, v, scale):
    """One query [Hq, D] over k, v [L, Hkv, D], in float64."""
    groups = q.shape[0] // k.shape[1]
    k, v = k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    weights = (torch.einsum("hd,lhd->hl", q.double(), k) * scale).softmax(-1)
    return torch.einsum("hl,lhd->hd", weights, v)


def paged(contexts, page_size, kv_heads, head_dim, seed=0):
    """Random contexts scattered over shuffled pages: (k list, v list, k_cache, v_cache, table)."""
    torch.manual_seed(seed)
    width = max(-(-n // page_size) for n in contexts) + 1
    pages = (torch.randperm(len(contexts) * width) + 1).view(len(contexts), width)
    shape = (len(contexts) * width + 1, page_size, kv_heads, head_dim)
    k_cache, v_cache = torch.randn(shape), torch.randn(shape)
    flat_k, flat_v = (c[pages].flatten(1, 2) for c in (k_cache, v_cache))
    k = [flat_k[i, :n] for i, n in enumerate(contexts)]
    v = [flat_v[i, :n] for i, n in enumerate(contexts)]
    return k, v, k_cache, v_cache, pages


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (3, 1, 24), (4, 4, 64)])
@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_decode_matches_float64(heads, kv_heads, head_dim, page_size):
    edge = CONTEXT_BUCKET
    contexts = [1, 2, page_size, page_size + 1, edge - 1, edge, edge + 1, 3 * edge - 5]
    k, v, k_cache, v_cache, pages = paged(contexts, page_size, kv_heads, head_dim)
    q = torch.randn(len(contexts), heads, head_dim)
    got = paged_attention(q, k_cache, v_cache, pages, torch.tensor(contexts), 0.3)
    expected = torch.stack([exact(*row, 0.3) for row in zip(q, k, v, strict=True)])
    torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=1e-5)


def test_decode_rows_do_not_depend_on_their_neighbours():
    contexts = [3, 70, 64, 200, 5, 130]
    _, _, k_cache, v_cache, pages = paged(contexts, 16, 2, 32)
    q = torch.randn(len(contexts), 4, 32).bfloat16()
    caches = (k_cache.bfloat16(), v_cache.bfloat16())
    together = paged_attention(q, *caches, pages, torch.tensor(contexts), 0.2)
    for i, n in enumerate(contexts):
        alone = paged_attention(q[i : i + 1], *caches, pages[i : i + 1], torch.tensor([n]), 0.2)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("page_size", [3, 16])
def test_prefill_chunks_see_their_prefix_and_themselves(page_size):
    contexts, chunks = [1, 7, 20, 33, 16], [1, 7, 6, 1, 15]
    k, v, k_cache, v_cache, pages = paged(contexts, page_size, 2, 16, seed=1)
    bounds = [0, *torch.tensor(chunks).cumsum(0).tolist()]
    q = torch.randn(bounds[-1], 6, 16)
    got = prefill_attention(q, k_cache, v_cache, pages, bounds, contexts, 0.25)
    row = 0
    for i, (context, chunk) in enumerate(zip(contexts, chunks, strict=True)):
        for position in range(context - chunk, context):
            seen = slice(0, position + 1)
            expected = exact(q[row], k[i][seen], v[i][seen], 0.25)
            torch.testing.assert_close(got[row].double(), expected, atol=2e-6, rtol=1e-5)
            row += 1
