"""What the attention benchmarks share: the models' heads, paged caches, FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from hala_kernels.quantize import FP8


@dataclass(frozen=True)
class Heads:
    """Attention of one layer."""

    model: str
    heads: int
    kv_heads: int
    dim: int
    window: int | None = None
    softcap: float | None = None

    @property
    def options(self) -> dict:
        return {"window": self.window, "softcap": self.softcap}

    def visible(self, position: int) -> int:
        """Positions that the token at `position` sees."""
        return min(position + 1, self.window or position + 1)


LFM2 = Heads("1.2B", 32, 8, 64)
GEMMA = Heads("9B", 16, 8, 256, 4096, 50.0)
COMMAND = Heads("111B", 96, 8, 128)
QWEN = Heads("3B", 16, 2, 128)
MODELS = (LFM2, GEMMA, COMMAND, QWEN)


def paged_cache(
    h: Heads, sequences: int, context: int, page: int, kv_dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """K and V caches that hold `sequences` contexts, their page table in random order, and the
    scales (None, None unless e4m3)."""
    width = context // page
    shape = (sequences * width, page, h.kv_heads, h.dim)

    def values() -> torch.Tensor:
        x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        return (x * 64).to(FP8) if kv_dtype == FP8 else x.to(kv_dtype)

    table = torch.randperm(shape[0], device=device).view(sequences, width)
    scale = torch.full((h.kv_heads,), 1 / 64, device=device) if kv_dtype == FP8 else None
    return values(), values(), table, scale, scale


def flex_peer(h: Heads, queries: int, context: int) -> Callable[..., torch.Tensor]:
    """Compiled FlexAttention for q [B, Hq, queries, D], k and v [B, Hkv, context, D]; the queries
    are the last positions of the context."""
    offset = context - queries

    def capped(score, batch, head, q, kv):
        return h.softcap * torch.tanh(score / h.softcap)

    def seen(batch, head, q, kv):
        causal = q + offset >= kv
        return causal & (q + offset - kv < h.window) if h.window else causal

    @cache
    def mask(device: torch.device):
        return create_block_mask(seen, None, None, queries, context, device=device)

    @cache
    def compiled():
        return torch.compile(flex_attention, dynamic=False)

    def run(q, k, v) -> torch.Tensor:
        return compiled()(
            q,
            k,
            v,
            score_mod=capped if h.softcap else None,
            block_mask=mask(q.device),
            scale=h.dim**-0.5,
            enable_gqa=True,
        )

    return run
