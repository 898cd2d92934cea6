"""Sequences scattered over pages, and what attention over them is in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hala_kernels.quantize import FP8


def exact(q, k, v, scale, softcap=None) -> torch.Tensor:
    """One query [Hq, D] over k, v [L, Hkv, D], in float64; zeros where L is 0."""
    group = q.shape[0] // k.shape[1]
    k, v = k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("hd,lhd->hl", q.double(), k) * scale
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    return torch.einsum("hl,lhd->hd", scores.softmax(-1), v)


@dataclass
class Cached:
    """Contexts in pages. `k[s]`, `v[s]` [L, Hkv, D] float64 are what sequence s holds."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    page_table: torch.Tensor
    scales: dict[str, torch.Tensor]

    @property
    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.k_cache, self.v_cache


def scattered(
    contexts: list[int],
    page_size: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    *,
    first_visible: list[int] | None = None,
    poison_rows: bool = False,
    magnitude: float = 1.0,
    fp8: bool = False,
    index_dtype: torch.dtype = torch.int64,
    device: torch.device | str = "cpu",
) -> Cached:
    """Random contexts over shuffled pages. Pages that hold no position from `first_visible[s]` to
    `contexts[s]` are NaN, and table entries beyond lead to one; with `poison_rows` so are the rows
    of a page that are not visible."""
    first_visible = first_visible or [0] * len(contexts)
    width = max(-(-n // page_size) for n in contexts) + 2
    pages = torch.randperm(len(contexts) * width).view(len(contexts), width) + 1
    shape = (len(contexts) * width + 1, page_size, kv_heads, head_dim)
    scales: dict[str, torch.Tensor] = {}
    held, caches = [], []
    for name in ("k", "v"):
        values = torch.randn(shape) * magnitude
        if fp8:
            scale = torch.rand(kv_heads) * 0.1 + 0.01
            scales[f"{name}_scale"] = scale.to(device)
            stored = (values / scale[:, None]).clamp(-448, 448).to(FP8)
            meant = stored.double() * scale.double()[:, None]
        else:
            stored = values.to(dtype)
            meant = stored.double()
        held.append([meant[pages[s]].flatten(0, 1)[:n] for s, n in enumerate(contexts)])
        visible = torch.zeros(shape[:2], dtype=torch.bool)
        for s, n in enumerate(contexts):
            rows = torch.zeros(width * page_size, dtype=torch.bool)
            low, high = first_visible[s], n
            if not poison_rows:
                low, high = low // page_size * page_size, -(-n // page_size) * page_size
            rows[low:high] = True
            visible[pages[s]] = rows.view(width, page_size)
        poisoned = stored.float()
        poisoned[~visible] = torch.nan
        caches.append(poisoned.to(stored.dtype).to(device))
    table = pages.clone()
    for s, n in enumerate(contexts):
        outside = torch.arange(width)
        outside = (outside < first_visible[s] // page_size) | (outside >= -(-n // page_size))
        table[s, outside] = 0
    return Cached(
        *([x.to(device) for x in per_sequence] for per_sequence in held),
        *caches,
        table.to(index_dtype).to(device),
        scales,
    )
