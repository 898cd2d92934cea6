"""Grouped-query attention over paged K and V: decode tokens first, each with its whole context,
then the packed prompt chunks."""

from __future__ import annotations

import torch
from torch import nn

from hala_engine.batch import Batch, LayerCache
from hala_engine.errors import InputError
from hala_engine.layers.linear import Linear
from hala_engine.layers.quantized import Activation
from hala_engine.weights.loading import Weights
from hala_kernels.paged_attention import paged_attention
from hala_kernels.prefill_attention import prefill_attention
from hala_kernels.rope_cache import rope_and_cache

Rope = tuple[torch.Tensor, torch.Tensor] | tuple[None, None]
"""cos and sin of the step's positions; Nones where a layer has no rotation."""

NO_ROPE: Rope = (None, None)


class Attention(nn.Module):
    """Weights under `w`: q_proj, k_proj, v_proj and `out`.

    scale: of q . k, head_dim^-0.5 unless given. window: positions seen, the own one included.
    softcap: of the scores. interleaved: pairs of columns rotate as neighbours, not as halves.
    qk_norm_eps: RMS norms of each head of q and k before rotation (q_layernorm, k_layernorm).
    """

    def __init__(
        self,
        w: Weights,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
        interleaved: bool = False,
        bias: bool = False,
        out: str = "o_proj",
        out_bias: bool = False,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        ranks = w.place.ranks
        if kv_heads % ranks:
            raise InputError(f"--tensor-parallel {ranks} does not divide the {kv_heads} KV heads")
        q, kv = heads * head_dim, kv_heads * head_dim
        parts = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        self.qkv = Linear(w, hidden, parts, bias=bias, split="out")
        self.out = Linear(w, q, {out: hidden}, bias=out_bias, split="in")
        self.shape = (heads // ranks, kv_heads // ranks, head_dim)
        self.scale = head_dim**-0.5 if scale is None else scale
        self.window, self.softcap, self.interleaved = window, softcap, interleaved
        self.q_norm = self.k_norm = None
        self.eps = qk_norm_eps or 0.0
        if qk_norm_eps is not None:
            self.q_norm = w.tensor("q_layernorm.weight", head_dim)
            self.k_norm = w.tensor("k_layernorm.weight", head_dim)
        # Of an e4m3 cache: a checkpoint may have calibrated them.
        self.k_scale = w.scales("k_scale", self.shape[1])
        self.v_scale = w.scales("v_scale", self.shape[1])

    def forward(
        self,
        x: Activation,
        batch: Batch,
        cache: LayerCache,
        rope: Rope,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`x` [T, hidden] -> [T, hidden], plus `residual`; writes the K and V of the step."""
        heads, kv_heads, dim = self.shape
        qkv = self.qkv(x).view(-1, heads + 2 * kv_heads, dim)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
        k_scale, v_scale = (self.k_scale, self.v_scale) if cache.is_fp8 else (None, None)
        pages = batch.pages[cache.group]
        q = rope_and_cache(
            q,
            k,
            v,
            *rope,
            cache.k,
            cache.v,
            pages.slots,
            self.q_norm,
            self.k_norm,
            self.eps,
            interleaved=self.interleaved,
            k_scale=k_scale,
            v_scale=v_scale,
        )
        attended = self._attend(q, batch, cache, pages.table, k_scale=k_scale, v_scale=v_scale)
        return self.out(attended.flatten(1), residual)

    def _attend(
        self, q: torch.Tensor, batch: Batch, cache: LayerCache, table: torch.Tensor, **scales
    ) -> torch.Tensor:
        """`q` [T, Hq, D] -> [T, Hq, D]; the step's K and V are already in the cache."""
        n, context = batch.num_decodes, batch.context_lens
        options = {"window": self.window, "softcap": self.softcap, **scales}
        if n == len(q):
            return paged_attention(q, cache.k, cache.v, table, context, self.scale, **options)
        prefill = prefill_attention(
            q[n:],
            cache.k,
            cache.v,
            table[n:],
            batch.prefill_bounds,
            context[n:],
            self.scale,
            max_seqlen=batch.longest_chunk,
            **options,
        )
        if n == 0:
            return prefill
        decode = paged_attention(
            q[:n], cache.k, cache.v, table[:n], context[:n], self.scale, **options
        )
        return torch.cat((decode, prefill))
