"""How much of a device's memory the cache takes, and what fits in it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch

from hala_engine.batch import CacheSpec
from hala_engine.errors import InputError


@dataclass(frozen=True)
class CachePlan:
    """`num_pages` pages, beside the one that is never given out, and `num_states` rows of
    convolution states; `max_model_len` is the longest sequence that they hold, in tokens."""

    num_pages: int
    num_states: int
    max_model_len: int
    page_bytes: int
    state_bytes: int

    @property
    def bytes(self) -> int:
        return (self.num_pages + 1) * self.page_bytes + self.num_states * self.state_bytes


def plan_cache(
    spec: CacheSpec,
    *,
    free: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    page_size: int,
    max_sequences: int,
    max_snapshots: int,
    max_model_len: int,
    chunk: int,
    where: object = "this device",
) -> CachePlan:
    """Pages for every sequence at full length, or what `free` bytes hold if that is less.

    chunk: the most tokens of a sequence that one step computes. Raises InputError when there is no
    room for a page in each group of layers, or for the convolution states.
    """
    page_bytes = spec.page_bytes(page_size, kv_dtype.itemsize)
    state_bytes = spec.state_bytes(dtype.itemsize)
    states = max_sequences + max_snapshots
    left = free - states * state_bytes

    def pages(tokens: int) -> int:
        return spec.pages(tokens, page_size, chunk)

    num_pages = max_sequences * pages(max_model_len)
    if page_bytes:
        num_pages = min(num_pages, left // page_bytes - 1)  # one page is never given out
    longest = bisect_right(range(max_model_len + 1), num_pages, key=pages) - 1
    if left < 0 or longest < min(page_size, max_model_len):
        raise InputError(
            f"no memory left for the cache on {where}: it may take {max(free, 0):,} bytes, the "
            f"convolution states of {states} sequences need {states * state_bytes:,} and "
            f"{page_size} tokens {(pages(page_size) + 1) * page_bytes:,}; "
            "lower --max-batch-size or free memory"
        )
    return CachePlan(num_pages, states, longest, page_bytes, state_bytes)
