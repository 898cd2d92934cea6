"""The cache against a model of it: who holds which page, and what stands in it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from histories import (
    check_accounts,
    check_slot,
    check_snapshot,
    make_cache,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)
WINDOWS = st.lists(st.sampled_from([None, 1, 3, 8, 9]), max_size=5).map(tuple)


class CacheMachine(RuleBasedStateMachine):
    """Opens, grows, keeps, continues and closes in any order. Like the engine it slides after every
    step and drops kept states, the oldest first, when room must be made."""

    slots = Bundle("slots")
    kept = Bundle("kept")

    @initialize(
        windows=WINDOWS,
        pages=st.integers(8, 60),
        page_size=st.sampled_from([1, 3, 4]),
        makes_room=st.booleans(),
    )
    def start(self, windows, pages, page_size, makes_room):
        self.cache = make_cache(
            windows, pages=pages, page_size=page_size, snapshots=3, max_model_len=60
        )
        self.sequences: dict[int, list[int]] = {}  # slot -> tokens computed
        self.snapshots = {}  # a number -> (snapshot, its tokens), in order of age
        self.spared = None
        self.next_number = 0
        if makes_room:
            self.cache.make_room = self.make_room

    def make_room(self, pages: int) -> None:
        for number in list(self.snapshots):
            if self.cache.free_pages < pages and number != self.spared:
                self.cache.drop(self.snapshots.pop(number)[0])

    @precondition(lambda self: self.cache.free_slots)
    @rule(target=slots, tokens=TOKENS)
    def open(self, tokens):
        slot = self.cache.open_slot()
        assert slot not in self.sequences
        self.sequences[slot] = []
        self.extend(slot, tokens)
        return slot

    @rule(slot=slots, tokens=TOKENS)
    def extend(self, slot, tokens):
        before, have = self.cache.page_tables.copy(), self.sequences[slot]
        tokens = (have + tokens)[:60]
        could = self.cache.free_pages
        if not self.cache.grow(slot, len(tokens)):
            assert np.array_equal(self.cache.page_tables, before)
            wanted = -(-len(tokens) // self.cache.page_size) - -(-len(have) // self.cache.page_size)
            assert wanted * len(self.cache.spec.groups) > could
            return
        write(self.cache, slot, tokens, len(have))
        self.sequences[slot] = tokens
        self.cache.slide(np.array([slot]), np.array([len(tokens)]))

    @rule(slot=slots, more=st.integers(0, 14))
    def grow_in_advance(self, slot, more):
        """Pages that a step will fill, as when the step before it did not get to it."""
        wanted = min(60, len(self.sequences[slot]) + more)
        self.cache.grow(slot, wanted)

    @rule(slot=consumes(slots))
    def close(self, slot):
        self.cache.close_slot(slot)
        del self.sequences[slot]

    @precondition(lambda self: self.cache.free_snapshots)
    @rule(target=kept, slot=slots)
    def keep(self, slot):
        tokens = self.sequences[slot]
        number, self.next_number = self.next_number, self.next_number + 1
        self.snapshots[number] = (self.cache.snapshot(slot, len(tokens)), tokens)
        return number

    @precondition(lambda self: self.cache.free_slots)
    @rule(target=slots, number=kept)
    def go_on(self, number):
        if number not in self.snapshots:
            return multiple()
        snapshot, tokens = self.snapshots[number]
        slot = self.cache.open_slot()
        self.spared = number
        if self.cache.restore(slot, snapshot):
            self.sequences[slot] = tokens
        else:
            assert self.cache.free_pages < len(self.cache.spec.groups)
            assert not self.cache.page_tables[:, slot].any()
            self.sequences[slot] = []
        self.spared = None
        return slot

    @rule(number=consumes(kept))
    def drop(self, number):
        if number in self.snapshots:
            self.cache.drop(self.snapshots.pop(number)[0])

    @invariant()
    def every_page_is_accounted_for(self):
        check_accounts(self.cache, [snapshot for snapshot, _ in self.snapshots.values()])
        assert self.cache.free_slots == 4 - len(self.sequences)
        assert self.cache.free_snapshots == 3 - len(self.snapshots)

    @invariant()
    def each_holds_its_own_history_and_pages_of_the_window_only(self):
        for slot, tokens in self.sequences.items():
            check_slot(self.cache, slot, tokens)
            for group, table in zip(self.cache.spec.groups, self.cache.page_tables, strict=True):
                window = group.window or len(tokens) + 1
                first = max(0, len(tokens) - window + 1) // self.cache.page_size
                held = np.flatnonzero(table[slot])
                assert held.tolist() == list(range(first, self.cache._ends[slot]))
        for snapshot, tokens in self.snapshots.values():
            check_snapshot(self.cache, snapshot, tokens)

    @invariant()
    def a_page_of_two_sequences_is_whole_and_says_the_same_for_both(self):
        holders: dict[int, tuple[int, int]] = {}
        for slot, tokens in self.sequences.items():
            for group, column in zip(*np.nonzero(self.cache.page_tables[:, slot]), strict=True):
                page = int(self.cache.page_tables[group, slot, column])
                other = holders.setdefault(page, (slot, int(column)))
                if other[0] == slot:
                    continue
                end = (column + 1) * self.cache.page_size
                assert other[1] == column and end <= len(tokens)
                assert self.sequences[other[0]][:end] == tokens[:end]

    @invariant()
    def what_would_be_freed_is_what_the_counts_say(self):
        snapshots = [snapshot for snapshot, _ in self.snapshots.values()]
        table_pages = set(self.cache.page_tables[self.cache.page_tables > 0].tolist())
        kept = {page for s in snapshots for pages in s.pages for page in pages}
        assert self.cache.freed_by(snapshots) == len(kept - table_pages)

    def teardown(self):
        for slot in self.sequences:
            self.cache.close_slot(slot)
        for snapshot, _ in self.snapshots.values():
            self.cache.drop(snapshot)
        check_accounts(self.cache, [])
        assert self.cache.free_pages == self.cache.num_pages


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("founder_first", [True, False])
def test_a_partial_page_is_written_by_one_only(founder_first):
    """The founder goes on, a follower goes on differently, and what is kept stays as it was: in
    every layer of both groups, whoever writes or leaves first."""
    cache = make_cache((3, None, 3, None), pages=20, snapshots=1)
    shared, own, other = [1, 2, 3, 4, 5, 6], [7, 8, 9], [0, 1, 2]
    founder = cache.open_slot()
    cache.grow(founder, 6)
    write(cache, founder, shared, 0)
    cache.slide(np.array([founder]), np.array([6]))
    kept = cache.snapshot(founder, 6)
    follower = cache.open_slot()

    def go_on(slot, tokens):
        assert cache.grow(slot, 9)
        write(cache, slot, shared + tokens, 6)
        cache.slide(np.array([slot]), np.array([9]))

    if founder_first:
        go_on(founder, own)
        check_slot(cache, founder, shared + own)
        cache.close_slot(founder)
    assert cache.restore(follower, kept)
    go_on(follower, other)
    if not founder_first:
        go_on(founder, own)
        check_slot(cache, founder, shared + own)
    check_slot(cache, follower, shared + other)
    check_snapshot(cache, kept, shared)
    check_accounts(cache, [kept])


def test_whole_pages_are_shared_and_not_copied():
    cache = make_cache((None, 5), pages=8, snapshots=1)
    founder = cache.open_slot()
    cache.grow(founder, 12)
    write(cache, founder, list(range(12)), 0)
    cache.slide(np.array([founder]), np.array([12]))
    kept = cache.snapshot(founder, 12)
    assert kept.starts == (0, 2) and cache.free_pages == 8 - 4
    follower = cache.open_slot()
    assert cache.restore(follower, kept)
    assert cache.free_pages == 8 - 4
    assert np.array_equal(cache.page_tables[:, founder], cache.page_tables[:, follower])


def test_a_kept_e4m3_page_is_copied_bit_for_bit():
    cache = Cache(
        CacheSpec((None, None), kv_heads=2, head_dim=4),
        num_pages=4,
        page_size=4,
        max_sequences=2,
        max_model_len=8,
        dtype=torch.bfloat16,
        kv_dtype=torch.float8_e4m3fn,
        device=torch.device("cpu"),
        max_snapshots=1,
    )
    founder = cache.open_slot()
    cache.grow(founder, 3)
    for layer in cache.tensors.kv:
        for pool in (layer.k, layer.v):
            pool.copy_(torch.randn(pool.shape))
    follower = cache.open_slot()
    assert cache.restore(follower, cache.snapshot(founder, 3))
    source, target = cache.page_tables[0, [founder, follower], 0]
    assert source != target
    for layer in cache.tensors.kv:
        for pool in (layer.k, layer.v):
            assert torch.equal(pool[source].view(torch.uint8), pool[target].view(torch.uint8))


def most_held(windows: tuple, tokens: int, page_size: int, chunks: list[int]) -> int:
    """The most pages that a sequence of `tokens` holds, computed in `chunks` that recur."""
    spec = CacheSpec(windows, kv_heads=1, head_dim=1)
    pages = len(spec.groups) * -(-tokens // page_size)
    cache = make_cache(windows, pages=pages, page_size=page_size, max_model_len=tokens)
    slot, computed, most, i = cache.open_slot(), 0, 0, 0
    while computed < tokens:
        computed = min(computed + chunks[i % len(chunks)], tokens)
        assert cache.grow(slot, computed)
        most = max(most, pages - cache.free_pages)
        cache.slide(np.array([slot]), np.array([computed]))
        i += 1
    return most


@pytest.mark.parametrize("page_size", [1, 2, 3, 4])
def test_pages_is_a_bound(page_size):
    """Over all small windows, lengths and chunks, decoding from every point on."""
    for window, tokens, chunk in product(range(1, 8), range(1, 24, 2), range(1, 7)):
        bound = CacheSpec((window,), 1, 1).pages(tokens, page_size, chunk)
        for first in range(1, chunk + 1):
            # One odd chunk shifts all that follow: with it every offset in a page occurs.
            chunks = [first] + [chunk] * tokens
            assert most_held((window,), tokens, page_size, chunks) <= bound
            assert most_held((window,), tokens, page_size, chunks[:2] + [1] * tokens) <= bound


@pytest.mark.parametrize("page_size", [1, 2, 3, 4])
def test_pages_is_reached(page_size):
    """By some way to cut a long sequence, so that the bound is the least one."""
    for window, chunk in product(range(1, 8), range(1, 7)):
        bound = CacheSpec((window,), 1, 1).pages(60, page_size, chunk)
        most = max(
            most_held((window,), 60, page_size, [1] * ones + [chunk] * 60)
            for ones in range(window, window + page_size + 1)
        )
        assert most == bound, (window, chunk)


@given(windows=WINDOWS, tokens=st.integers(1, 50), page_size=st.sampled_from([1, 4, 16]))
@settings(max_examples=100, deadline=None)
def test_pages_of_several_groups_add_up(windows, tokens, page_size):
    spec = CacheSpec(windows, kv_heads=1, head_dim=1)
    one_by_one = sum(
        CacheSpec((group.window,), 1, 1).pages(tokens, page_size, 7) for group in spec.groups
    )
    assert spec.pages(tokens, page_size, 7) == one_by_one
    if windows:
        assert most_held(windows, tokens, page_size, [7]) <= one_by_one


@given(windows=WINDOWS)
def test_groups_take_every_layer_once_and_share_a_window(windows):
    spec = CacheSpec(windows, kv_heads=1, head_dim=1)
    layers = sorted(layer for group in spec.groups for layer in group.layers)
    assert layers == list(range(len(windows)))
    for group in spec.groups:
        assert {windows[layer] for layer in group.layers} == {group.window}
        assert len(group.layers) <= spec.layers_per_page
    pools = {(layer.group, layer.k.data_ptr()) for layer in make_cache(windows, pages=1).tensors.kv}
    assert len(pools) == len(windows)


def test_layers_of_the_known_models_fill_their_pages():
    """Cohere2 (three sliding layers of four) and Gemma2 (every other) leave no room unused."""
    for pattern, times in (((4096, 4096, 4096, None), 16), ((4096, None), 21)):
        spec = CacheSpec(pattern * times, kv_heads=8, head_dim=128)
        assert {len(group.layers) for group in spec.groups} == {times}
