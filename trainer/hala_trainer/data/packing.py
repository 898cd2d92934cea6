"""Best-fit packing of documents into rows, and the arrays that rows become."""

from dataclasses import dataclass

import numpy as np

from hala_trainer.data.documents import Corpus


@dataclass(frozen=True)
class Batch:
    """R rows of L packed tokens; every array but the last is [R, L]."""

    ids: np.ndarray  # int64
    positions: np.ndarray  # int64, restarting at each document
    documents: np.ndarray  # int32, the document's place in its row; padding is one more document
    supervised: np.ndarray  # bool: this token is a target, predicted from the one before it
    real_tokens: int  # padding not counted
    lengths: np.ndarray  # int64 [documents of the batch]


@dataclass(frozen=True)
class Rows:
    """Row r holds documents[starts[r]:starts[r+1]]: two arrays instead of millions of lists."""

    documents: np.ndarray  # int64 [documents], indices into a corpus
    starts: np.ndarray  # int64 [rows + 1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.documents[self.starts[row] : self.starts[row + 1]]


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Put each document (longest first) into the fullest row that still has room for it.

    lengths: int [documents], each in 1..capacity. Returns the row of each document, int64.

    Documents of one length are placed together: the best row for the first of them, with `free`
    tokens left, stays the best row for the next one as long as there is room, so the rows of one
    `free` take `free // length` documents each before any other row is thought of.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"document lengths must lie in 1..{capacity}")
    order = np.argsort(lengths, kind="stable")[::-1]
    row_of = np.empty(len(lengths), np.int64)
    counts = np.bincount(lengths, minlength=capacity + 1)
    room: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by free tokens
    open_rooms = 0  # bit r: room[r] is not empty; the best room is one shift and one bit scan away
    rows, done = 0, 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = open_rooms >> length
            free = length + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = free // length
            if fitting:
                taken = room[free].pop()
                needed = -(-left // each)
                if len(taken) > needed:
                    room[free].append(taken[needed:])
                    taken = taken[:needed]
                if not room[free]:
                    open_rooms &= ~(1 << free)
            else:
                taken = np.arange(rows, rows + -(-left // each))
                rows += len(taken)
            placed = min(left, len(taken) * each)
            row_of[order[done : done + placed]] = np.repeat(taken, each)[:placed]
            done, left = done + placed, left - placed
            in_last = placed - (len(taken) - 1) * each
            for group, used in ((taken[:-1], each), (taken[-1:], in_last)):
                if len(group) and (after := free - used * length):
                    room[after].append(group)
                    open_rooms |= 1 << after
    return row_of


def build_batch(corpus: Corpus, rows: Rows | list, n_rows: int, seq_len: int, pad: int) -> Batch:
    """Lay rows of document indices out as [n_rows, seq_len]; missing rows are all padding."""
    shape = (n_rows, seq_len)
    ids = np.full(shape, pad, np.int64)
    positions, documents = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
    supervised = np.zeros(shape, bool)
    lengths = []
    for r, row in enumerate(rows):
        at = 0
        for n, document in enumerate(row):
            tokens, learnt = corpus.get(document)
            end = at + len(tokens)
            ids[r, at:end] = tokens
            supervised[r, at + 1 : end] = learnt[1:]  # nothing predicts the first
            positions[r, at:end] = np.arange(len(tokens))
            documents[r, at:end] = n
            lengths.append(len(tokens))
            at = end
        documents[r, at:] = len(row)
    return Batch(ids, positions, documents, supervised, sum(lengths), np.array(lengths, np.int64))
