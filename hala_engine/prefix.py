"""Prompt prefixes that requests have in common, an instruction's template say: found as requests
come in, computed once, and kept in the cache while there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hala_engine.cache import Cache, Snapshot

LEAST_GAIN = 8
"""Tokens that a new prefix must save over the ones known: less is not worth a copied page."""

LOOK_BACK = 4
"""Requests that a new one is compared with; a job's columns may take turns with their templates."""

MOST_KNOWN = 64
"""Prefixes that are known, kept or not: the requests that wait may begin with many."""


@dataclass(eq=False)
class Prefix:
    """`tokens` that more than one prompt begins with. `kept` once they have been computed; until
    then `is_coming` says that a running sequence is about to. `last_wanted`: by the clock of the
    `SharedPrefixes`."""

    tokens: list[int]
    kept: Snapshot | None = None
    is_coming: bool = False
    last_wanted: int = 0

    def __post_init__(self) -> None:
        self.length, self.last_token = len(self.tokens), self.tokens[-1]


class SharedPrefixes:
    """Prefixes of one cache. At most `limit` are kept, no more than it has snapshots; those that
    were wanted longest ago make room.

    align: prefixes end at multiples of it, so that those who share one compute the rest as if they
    had computed it all.
    """

    def __init__(self, cache: Cache, limit: int, align: int = 1) -> None:
        self.cache = cache
        self.limit = limit
        self.align = align
        self._known: list[Prefix] = []  # the longest first
        self._recent: deque[list[int]] = deque(maxlen=LOOK_BACK)
        self._clock = 0
        self._spared: Prefix | None = None
        cache.make_room = self._make_room

    def note(self, prompt: list[int]) -> None:
        """A request with this prompt is waiting."""
        if not self.limit:
            return
        known = self._prefixes_of(prompt)
        self._touch(known)
        enough = LEAST_GAIN + (len(known[0].tokens) if known else 0)
        common = max((_common(prompt, other, enough) for other in self._recent), default=0)
        common -= common % self.align
        if common >= enough:
            self._add(Prefix(prompt[:common]))
        self._recent.append(prompt)

    def find(self, prompt: list[int]) -> tuple[Prefix | None, Prefix | None]:
        """The longest known prefix of the prompt that is kept or coming, and the one to compute
        next: the shortest beyond, since the most requests share it."""
        following = None
        for prefix in self._prefixes_of(prompt):
            if prefix.kept or prefix.is_coming:
                return prefix, following
            following = prefix
        return None, following

    def has_room(self, pages: int, spared: Prefix | None) -> bool:
        """Whether so many pages are free, or could be made so without `spared`."""
        with self._sparing(spared):
            return self.cache.has_room(pages)

    def use(self, prefix: Prefix, slot: int) -> bool:
        """Continue from a kept prefix in a slot just opened; False when no page is left for it."""
        self._touch([prefix, *self._prefixes_of(prefix.tokens)])
        with self._sparing(prefix):
            return self.cache.restore(slot, prefix.kept)

    def keep(self, prefix: Prefix, slot: int) -> None:
        """The sequence in `slot` has computed exactly the prefix's tokens."""
        prefix.is_coming = False
        if prefix not in self._known:
            return  # Others took its place meanwhile.
        kept = self._kept()
        if len(kept) == self.limit:
            self._drop(kept[0])
        self._touch([prefix, *self._prefixes_of(prefix.tokens)])
        prefix.kept = self.cache.snapshot(slot, len(prefix.tokens))

    def clear(self) -> None:
        """Forget every prefix and free what they hold."""
        for prefix in self._kept():
            self._drop(prefix)
        self._known.clear()
        self._recent.clear()

    def _add(self, prefix: Prefix) -> None:
        if len(self._known) == MOST_KNOWN:
            oldest = min(self._known, key=lambda p: p.last_wanted)
            self._drop(oldest)
            self._known.remove(oldest)
        self._touch([prefix, *self._prefixes_of(prefix.tokens)])
        self._known.append(prefix)
        self._known.sort(key=lambda p: len(p.tokens), reverse=True)

    def _prefixes_of(self, prompt: list[int]) -> list[Prefix]:
        """The known ones that it goes on after, the longest first."""
        # The last token first: most differ there, and nothing is copied to see it. This is asked
        # of every prefix for every request, so it is no method of theirs.
        n = len(prompt)
        return [
            known
            for known in self._known
            if n > known.length
            and prompt[known.length - 1] == known.last_token
            and prompt[: known.length] == known.tokens
        ]

    def _touch(self, wanted: list[Prefix]) -> None:
        """The last, which the most requests share, makes room last."""
        for prefix in wanted:
            self._clock += 1
            prefix.last_wanted = self._clock

    def _drop(self, prefix: Prefix) -> None:
        """Free what it holds. The next sequence that begins with it computes it anew."""
        if prefix.kept:
            self.cache.drop(prefix.kept)
            prefix.kept = None

    def _kept(self) -> list[Prefix]:
        """Those that are kept, the one wanted longest ago first."""
        return sorted((p for p in self._known if p.kept), key=lambda p: p.last_wanted)

    @contextmanager
    def _sparing(self, prefix: Prefix | None) -> Iterator[None]:
        self._spared = prefix
        try:
            yield
        finally:
            self._spared = None

    def _make_room(self, pages: int) -> None:
        """Drop prefixes until so many pages are free; none, if that is not to be had."""
        droppable = [prefix for prefix in self._kept() if prefix is not self._spared]
        gain = self.cache.freed_by(prefix.kept for prefix in droppable)
        if self.cache.free_pages + gain < pages:
            return
        for prefix in droppable:
            if self.cache.free_pages >= pages:
                return
            self._drop(prefix)


def _common(a: list[int], b: list[int], enough: int) -> int:
    """Tokens that both begin with, one left over in each; 0 if they are fewer than `enough`."""
    limit = min(len(a), len(b)) - 1
    if limit < enough or a[:enough] != b[:enough]:
        return 0
    low = enough
    while low < limit:
        middle = (low + limit + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            limit = middle - 1
    return low
