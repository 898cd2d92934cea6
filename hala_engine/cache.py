"""Where sequences keep their state: K and V in pages, convolution states in slots.

The tensors are allocated once. A sequence holds a slot while it runs, and pages as it grows; each
group of layers has a page table of its own, so that layers with a window give pages back that have
left it. A page may be held by several: the prefix that sequences share is kept once. Page 0 is
never given out: it stays finite, so that padding, and what has left a window, may point at it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from hala_engine.batch import CacheSpec, CacheTensors, LayerCache


@dataclass(frozen=True)
class Snapshot:
    """The state after `tokens` tokens, held apart from the sequence that computed it: for each
    group the first page held and the pages from there on, and a row of convolution states."""

    tokens: int
    starts: tuple[int, ...]
    pages: tuple[tuple[int, ...], ...]
    state: int


class Cache:
    """Pools for `max_sequences` running sequences, `max_snapshots` kept states and `num_pages`
    pages of `page_size` tokens.

    kv_dtype: of K and V, e4m3 or `dtype`. make_room: called for a number of free pages when there
    are fewer; it may drop snapshots. page_tables: int64 [groups, max_sequences, pages of
    `max_model_len`], 0 where a slot holds no page. reach: int64 [max_sequences], the tokens that a
    slot's pages are enough for.
    """

    def __init__(
        self,
        spec: CacheSpec,
        *,
        num_pages: int,
        page_size: int,
        max_sequences: int,
        max_model_len: int,
        dtype: torch.dtype,
        device: torch.device,
        kv_dtype: torch.dtype | None = None,
        max_snapshots: int = 0,
    ) -> None:
        self.spec = spec
        self.page_size = page_size
        self.num_pages = num_pages
        self.max_sequences = max_sequences
        self.max_model_len = max_model_len
        self.make_room: Callable[[int], None] = lambda wanted: None
        self._pools = _Pools.allocate(
            spec, num_pages, page_size, max_sequences + max_snapshots, dtype, kv_dtype, device
        )
        self.tensors = self._pools.by_layer(spec)
        groups, width = len(spec.groups), -(-max_model_len // page_size)
        self.page_tables = np.zeros((groups, max_sequences, width), dtype=np.int64)
        self._windows = [(i, g.window) for i, g in enumerate(spec.groups) if g.window is not None]
        self._starts = np.zeros((groups, max_sequences), dtype=np.int64)  # first page held
        self._ends = [0] * max_sequences  # pages beyond the last one held, in every group
        self.reach = np.zeros(max_sequences, dtype=np.int64)
        self._holders = [0] * (num_pages + 1)
        self._free_pages = list(range(num_pages, 0, -1))
        self._free_slots = list(range(max_sequences - 1, -1, -1))
        self._free_states = list(range(max_sequences + max_snapshots - 1, max_sequences - 1, -1))

    @property
    def free_pages(self) -> int:
        return len(self._free_pages)

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def free_snapshots(self) -> int:
        return len(self._free_states)

    @property
    def groups(self) -> int:
        return len(self.page_tables)

    def pages_for(self, tokens: int) -> int:
        """Pages of one group."""
        return -(-tokens // self.page_size)

    def open_slot(self) -> int:
        """A slot for a new sequence, its convolution states zero."""
        slot = self._free_slots.pop()
        self._pools.states[:, slot] = 0
        return slot

    def grow(self, slot: int, tokens: int) -> bool:
        """Give the slot pages for its first `tokens` tokens; False, and no change, if too few."""
        have = self._ends[slot]
        more = self.pages_for(tokens) - have
        if more <= 0:
            return True
        if not self.has_room(more * self.groups):
            return False
        for table in self.page_tables:
            table[slot, have : have + more] = [self._take() for _ in range(more)]
        self._set_end(slot, have + more)
        return True

    def slide(self, slots: np.ndarray, computed: np.ndarray) -> None:
        """Once so many tokens of each slot are in the cache: free the pages that no later token
        sees."""
        for group, window in self._windows:
            firsts, starts = (computed - window + 1) // self.page_size, self._starts[group]
            for i in np.flatnonzero(firsts > starts[slots]):
                slot, first = slots[i], firsts[i]
                row, start = self.page_tables[group, slot], starts[slot]
                self._give_back(row[start:first].tolist())
                row[start:first] = 0
                starts[slot] = first

    def close_slot(self, slot: int) -> None:
        """Take back the slot and its pages."""
        end = self._ends[slot]
        for table, starts in zip(self.page_tables, self._starts, strict=True):
            row = table[slot]
            self._give_back(row[starts[slot] : end].tolist())
            row[:end] = 0
            starts[slot] = 0
        self._set_end(slot, 0)
        self._free_slots.append(slot)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """Keep the slot's state, which is that after `tokens` tokens."""
        end = self.pages_for(tokens)
        starts = tuple(self._starts[:, slot].tolist())
        pages = tuple(
            tuple(table[slot, start:end].tolist())
            for table, start in zip(self.page_tables, starts, strict=True)
        )
        for held in pages:
            for page in held:
                self._holders[page] += 1
        state = self._free_states.pop()
        self._pools.states[:, state] = self._pools.states[:, slot]
        return Snapshot(tokens, starts, pages, state)

    def restore(self, slot: int, kept: Snapshot) -> bool:
        """Continue from the kept state in a slot just opened; False, and no change, if there is no
        page to write the next token to.

        Whole pages are shared. The last one, if it is not full, is copied: both will write to it.
        """
        is_partial = bool(kept.tokens % self.page_size)
        if is_partial and not self.has_room(self.groups):
            return False
        end = self.pages_for(kept.tokens)
        for group, (start, pages) in enumerate(zip(kept.starts, kept.pages, strict=True)):
            held = list(pages)
            if is_partial:
                held[-1] = self._take()
                self._pools.copy_page(pages[-1], held[-1])
            for page in pages[: -1 if is_partial else None]:
                self._holders[page] += 1
            self.page_tables[group, slot, start:end] = held
            self._starts[group][slot] = start
        self._set_end(slot, end)
        self._pools.states[:, slot] = self._pools.states[:, kept.state]
        return True

    def drop(self, kept: Snapshot) -> None:
        """Give back what the kept state holds."""
        for pages in kept.pages:
            self._give_back(pages)
        self._free_states.append(kept.state)

    def freed_by(self, snapshots: Iterable[Snapshot]) -> int:
        """Pages that would be free if all of these were dropped."""
        held = Counter(page for kept in snapshots for pages in kept.pages for page in pages)
        return sum(self._holders[page] == times for page, times in held.items())

    def has_room(self, pages: int) -> bool:
        """Whether so many pages are free, or could be made so."""
        if pages > len(self._free_pages):
            self.make_room(pages)
        return pages <= len(self._free_pages)

    def _set_end(self, slot: int, end: int) -> None:
        self._ends[slot] = end
        self.reach[slot] = end * self.page_size

    def _take(self) -> int:
        page = self._free_pages.pop()
        self._holders[page] = 1
        return page

    def _give_back(self, pages: list[int] | tuple[int, ...]) -> None:
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free_pages.append(page)


@dataclass(frozen=True)
class _Pools:
    """All layers' states in three tensors, so that a page or a state is copied in one go.

    k, v: [layers_per_page, pages, page_size, kv_heads, head_dim]; the groups' layers take turns in
    the first dimension. states: [conv_layers, slots, conv_columns, conv_width].
    """

    k: torch.Tensor
    v: torch.Tensor
    states: torch.Tensor

    @classmethod
    def allocate(
        cls,
        spec: CacheSpec,
        num_pages: int,
        page_size: int,
        states: int,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None,
        device: torch.device,
    ) -> _Pools:
        # Zeros, not empty: masked entries are multiplied by 0, and 0 * NaN is NaN. On the CPU the
        # operating system hands out zeroed memory on first touch, so an unused page costs nothing.
        def pool(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        pages = (spec.layers_per_page, num_pages + 1, page_size, spec.kv_heads, spec.head_dim)
        return cls(
            k=pool(*pages, dtype=kv_dtype or dtype),
            v=pool(*pages, dtype=kv_dtype or dtype),
            states=pool(spec.conv_layers, states, spec.conv_columns, spec.conv_width, dtype=dtype),
        )

    def by_layer(self, spec: CacheSpec) -> CacheTensors:
        kv = {
            layer: LayerCache(self.k[i], self.v[i], group=number)
            for number, group in enumerate(spec.groups)
            for i, layer in enumerate(group.layers)
        }
        return CacheTensors(
            kv=[kv[layer] for layer in range(len(spec.windows))],
            conv_states=list(self.states),
        )

    def copy_page(self, source: int, target: int) -> None:
        """In every layer of a page."""
        for pool in (self.k, self.v):
            pool[:, target] = pool[:, source]
