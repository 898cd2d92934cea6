"""A stand-in for the model that finds out whether the cache holds what layers would read: in place
of K, V and convolution states it writes numbers that each tell a sequence's history up to there."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch

from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache, Snapshot
from hala_engine.schedule import Schedule

MODULUS = 1_000_003  # float32 holds such numbers exactly


def make_cache(
    windows: tuple[int | None, ...] = (None,),
    *,
    pages: int,
    slots: int = 4,
    page_size: int = 4,
    snapshots: int = 0,
    max_model_len: int | None = None,
) -> Cache:
    """A cache for histories, with two convolution layers."""
    return Cache(
        CacheSpec(windows, kv_heads=1, head_dim=1, conv_layers=2, conv_columns=2, conv_width=1),
        num_pages=pages,
        page_size=page_size,
        max_sequences=slots,
        max_model_len=max_model_len or pages * page_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
        max_snapshots=snapshots,
    )


def numbers(tokens: list[int]) -> torch.Tensor:
    """[len(tokens) + 1] float32: of the history before each token and after the last."""
    steps = accumulate(tokens, lambda h, token: (h * 31 + token + 1) % MODULUS, initial=0)
    return torch.tensor(list(steps), dtype=torch.float32)


def write(cache: Cache, slot: int, tokens: list[int], start: int) -> None:
    """What a step leaves behind that computes `tokens` from `start` on."""
    history, positions = numbers(tokens), np.arange(start, len(tokens))
    for i, layer in enumerate(cache.tensors.kv):
        pages = cache.page_tables[layer.group, slot][positions // cache.page_size]
        assert pages.all(), "a token would be written to page 0"
        layer.k[pages, positions % cache.page_size, 0, 0] = history[start + 1 :] + i
        layer.v[pages, positions % cache.page_size, 0, 0] = -history[start + 1 :] - i
    _write_state(cache, slot, history[-1])


def _write_state(cache: Cache, row: int, number: torch.Tensor) -> None:
    for i, states in enumerate(cache.tensors.conv_states):
        states[row] = number + i


def check_state(cache: Cache, row: int, tokens: list[int]) -> None:
    """The row of convolution states is that after `tokens`."""
    for i, states in enumerate(cache.tensors.conv_states):
        assert (states[row] == (numbers(tokens)[-1] + i if tokens else 0)).all()


def check_kv(cache: Cache, tables: list[np.ndarray], tokens: list[int], seen_from: int) -> None:
    """Where each group's table says, there is what a token at position `seen_from` and those up to
    the end of `tokens` see."""
    history = numbers(tokens)[1:]
    for i, layer in enumerate(cache.tensors.kv):
        window = cache.spec.windows[i]
        first = 0 if window is None else max(0, seen_from - window + 1)
        positions = np.arange(first, len(tokens))
        pages = tables[layer.group][positions // cache.page_size]
        assert pages.all(), "a page that is still seen has been freed"
        k = layer.k[pages, positions % cache.page_size, 0, 0]
        v = layer.v[pages, positions % cache.page_size, 0, 0]
        assert torch.equal(k, history[first:] + i) and torch.equal(v, -k)


def check_slot(cache: Cache, slot: int, tokens: list[int]) -> None:
    """A sequence that goes on after `tokens` finds its own history."""
    check_kv(cache, list(cache.page_tables[:, slot]), tokens, len(tokens))
    check_state(cache, slot, tokens)


def check_snapshot(cache: Cache, kept: Snapshot, tokens: list[int]) -> None:
    """As `check_slot`."""
    tables = [
        np.array([0] * start + list(pages))
        for start, pages in zip(kept.starts, kept.pages, strict=True)
    ]
    check_kv(cache, tables, tokens, len(tokens))
    check_state(cache, kept.state, tokens)


def check_accounts(cache: Cache, snapshots: list[Snapshot]) -> None:
    """Every page is free or held, and as often as tables and snapshots say; 0 is neither."""
    holders = np.zeros(cache.num_pages + 1, dtype=np.int64)
    np.add.at(holders, cache.page_tables[cache.page_tables > 0], 1)
    for kept in snapshots:
        np.add.at(holders, [page for pages in kept.pages for page in pages], 1)
    assert holders.tolist() == cache._holders
    assert sorted(cache._free_pages) == [page + 1 for page in np.flatnonzero(holders[1:] == 0)]
    assert cache.free_pages + np.count_nonzero(holders) == cache.num_pages


def step(cache: Cache, schedule: Schedule) -> None:
    """Compute the schedule: write what it computes, then read what its layers see."""
    done = []
    for chunk in schedule.chunks:
        sequence = chunk.sequence
        tokens = sequence.tokens(0, chunk.end)
        check_state(cache, sequence.slot, tokens[: chunk.start])
        write(cache, sequence.slot, tokens, chunk.start)
        done.append((sequence.slot, tokens, chunk.start))
    for slot, tokens, start in done:
        check_kv(cache, list(cache.page_tables[:, slot]), tokens, start)
        check_state(cache, slot, tokens)
