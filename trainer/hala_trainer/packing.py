"""Best-fit packing of documents into rows, and the order in which rows are trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hala_trainer.dataset import Documents


@dataclass(frozen=True)
class Batch:
    """R rows of L packed tokens; every array is [R, L]."""

    ids: np.ndarray  # int64
    positions: np.ndarray  # int64, restarting at each document
    documents: np.ndarray  # int32, the document's place in its row; padding is one more document
    supervised: np.ndarray  # bool: this token is a target, predicted from the one before it
    real_tokens: int  # padding not counted


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Put each document (longest first) into the fullest row that still has room for it.

    `room[r]` holds the open rows with r free tokens, and bit r of `open_rooms` says that it is not
    empty, so that the best row is found by one shift and one bit scan.
    """
    rows: list[list[int]] = []
    room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0
    order = np.argsort(-lengths, kind="stable")
    for doc, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = open_rooms >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = room[free].pop()
            if not room[free]:
                open_rooms &= ~(1 << free)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(doc)
        left = free - length
        if left:
            room[left].append(row)
            open_rooms |= 1 << left
    return rows


def build_batch(
    docs: Documents, rows: list[list[int]], n_rows: int, seq_len: int, pad: int
) -> Batch:
    """Lay rows of document indices out as arrays; missing rows (at an epoch's end) are padding."""
    ids = np.full((n_rows, seq_len), pad, np.int64)
    positions = np.zeros((n_rows, seq_len), np.int64)
    documents = np.zeros((n_rows, seq_len), np.int32)
    supervised = np.zeros((n_rows, seq_len), bool)
    real = 0
    for r, row in enumerate(rows):
        at = 0
        for n, doc in enumerate(row):
            start, stop = docs.offsets[doc], docs.offsets[doc + 1]
            end = at + int(stop - start)
            ids[r, at:end] = docs.ids[start:stop]
            supervised[r, at:end] = docs.supervised[start:stop]
            positions[r, at:end] = np.arange(end - at)
            documents[r, at:end] = n
            at = end
        documents[r, at:] = len(row)
        real += at
    return Batch(ids, positions, documents, supervised, real)


@dataclass
class DataPosition:
    """Where the next step reads; all that exact resume needs besides the seed."""

    epoch: int = 0
    cursor: int = 0  # rows of this epoch already used


class PackedRows:
    """Endless steps of packed rows, a new shuffle and a new packing every epoch."""

    def __init__(
        self, sources: list[Documents], weights: list[float], seq_len: int, pad: int, seed: int
    ):
        self.docs = Documents.concat(sources)
        sizes = [len(source) for source in sources]
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.sizes, self.weights = sizes, weights or [1.0] * len(sources)
        self.seq_len, self.pad, self.seed = seq_len, pad, seed
        self.position = DataPosition()
        self._packed_epoch = -1
        self._rows: list[list[int]] = []

    def rows_of_epoch(self, epoch: int) -> list[list[int]]:
        if epoch != self._packed_epoch:
            rng = np.random.default_rng([self.seed, epoch])
            chosen = []
            for start, size, weight in zip(self.starts, self.sizes, self.weights, strict=True):
                whole = int(weight)
                part = rng.permutation(size)[: round((weight - whole) * size)]
                chosen += [np.arange(size) + start] * whole + [part + start]
            # Shuffling before packing gives each document new neighbours every epoch.
            picked = rng.permutation(np.concatenate(chosen))
            rows = best_fit(np.diff(self.docs.offsets)[picked], self.seq_len)
            order = rng.permutation(len(rows))
            self._rows = [[int(picked[i]) for i in rows[r]] for r in order]
            self._packed_epoch = epoch
        return self._rows

    def next_step(self, n_rows: int, accumulate: int) -> list[Batch]:
        """The micro-batches of one step. A step never spans two epochs."""
        rows = self.rows_of_epoch(self.position.epoch)
        at = self.position.cursor
        taken = rows[at : at + n_rows * accumulate]
        self.position.cursor = at + n_rows * accumulate
        if self.position.cursor >= len(rows):
            self.position = DataPosition(self.position.epoch + 1)
        return [
            build_batch(self.docs, taken[i : i + n_rows], n_rows, self.seq_len, self.pad)
            for i in range(0, len(taken), n_rows)
        ]


def in_order(docs: Documents, n_rows: int, seq_len: int, pad: int) -> Iterator[Batch]:
    """One pass for evaluation: packed once, never shuffled."""
    rows = best_fit(np.diff(docs.offsets), seq_len)
    for i in range(0, len(rows), n_rows):
        yield build_batch(docs, rows[i : i + n_rows], n_rows, seq_len, pad)
