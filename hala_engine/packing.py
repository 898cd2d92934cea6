"""From a schedule to the arrays of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hala_engine.cache import Cache
from hala_engine.schedule import Schedule


@dataclass(frozen=True)
class Packed:
    """What `Batch` holds, in int64 arrays on the host: T tokens of S sequences, G groups of pages,
    W pages at most. A token that the host does not know yet is -1."""

    token_ids: np.ndarray  # [T]
    positions: np.ndarray  # [T]
    places: np.ndarray  # [G, T]: where K and V of a token go
    tables: np.ndarray  # [G, S, W]
    slots: np.ndarray  # [S]
    contexts: np.ndarray  # [S]
    counts: np.ndarray  # [S]: tokens of each
    num_decodes: int

    @property
    def prefill_bounds(self) -> np.ndarray:
        """[S - num_decodes + 1]: chunk boundaries within the prefill tokens."""
        return np.concatenate(([0], np.cumsum(self.counts[self.num_decodes :])))

    @property
    def longest_chunk(self) -> int:
        return int(self.counts[self.num_decodes :].max(initial=0))

    @property
    def last_rows(self) -> np.ndarray:
        """[S]: of each sequence's last token."""
        return np.cumsum(self.counts) - 1


def pack(schedule: Schedule, cache: Cache) -> Packed:
    """The arrays of a step that is not empty."""
    counts, slots, contexts = schedule.counts, schedule.slots, schedule.ends
    table = schedule.table
    if schedule.num_decodes == len(schedule):
        positions, of_token = schedule.starts, slots
    else:
        first_rows = np.cumsum(counts) - counts
        of_token = np.repeat(slots, counts)
        positions = np.arange(len(of_token)) + np.repeat(schedule.starts - first_rows, counts)
    token_ids = table.tokens[of_token, positions].astype(np.int64)
    token_ids[positions >= table.known[of_token]] = -1
    page, offset = np.divmod(positions, cache.page_size)
    places = cache.page_tables[:, of_token, page] * cache.page_size + offset
    return Packed(
        token_ids=token_ids,
        positions=positions,
        # Kernels take a group's entries side by side; numpy gives them by token.
        places=np.ascontiguousarray(places),
        tables=np.ascontiguousarray(
            cache.page_tables[:, slots, : cache.pages_for(int(contexts.max()))]
        ),
        slots=slots,
        contexts=contexts,
        counts=counts,
        num_decodes=schedule.num_decodes,
    )
