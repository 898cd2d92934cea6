"""The order in which documents are trained on: from the seed alone, whatever the processes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hala_trainer.data.documents import Corpus
from hala_trainer.data.packing import Batch, Rows, best_fit, build_batch
from hala_trainer.errors import InputError

WIDTH_MULTIPLE = 8  # of unpacked batches: what matrix units and vectors like
# First words of the seeds, that no two generators may be the same.
PASSES, COMPANY = 1, 2


@dataclass
class DataPosition:
    """Where the next step reads; all that exact resume needs besides the seed."""

    epoch: int = 0
    cursor: int = 0  # rows of this epoch already used


class PackedRows:
    """Endless steps of rows, in a new order and a new packing every epoch.

    An epoch takes weights[s] passes over source s (1 unless given). A fraction of a pass goes on
    in the next epoch where it ended, so that no document is seen twice before all were seen once.
    With packing = "none" a row is one document, and a batch as wide as its longest.
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: Sequence[float],
        seq_len: int,
        pad: int,
        seed: int,
        packing: str = "best_fit",
    ):
        self.corpus, self.seq_len, self.pad, self.seed = corpus, seq_len, pad, seed
        self.weights = list(weights) or [1.0] * len(corpus.sizes)
        self.packing = packing
        self.position = DataPosition()
        self._made: tuple[int, Rows] | None = None

    def rows_of_epoch(self, epoch: int) -> Rows:
        """Raises InputError when the weights leave an epoch without a single document."""
        if self._made is None or self._made[0] != epoch:
            self._made = None  # before the next, which may be large too
            self._made = (epoch, self._make_rows(epoch))
        return self._made[1]

    def steps(self, epochs: float, global_batch: int) -> int:
        """How many steps the given number of epochs takes, each epoch like the first."""
        rows = len(self.rows_of_epoch(0))
        whole = math.floor(epochs)
        part = math.ceil(round((epochs - whole) * rows, 6))
        return whole * math.ceil(rows / global_batch) + math.ceil(part / global_batch)

    def next_step(self, global_batch: int, micro_batch: int, rank: int, world: int) -> list[Batch]:
        """This rank's batches of one step, `micro_batch` rows each; every rank gets as many.

        A step never spans two epochs. The last one of an epoch may have fewer rows, and then fewer
        batches; rows that are missing from a batch are padding.
        """
        rows = self.rows_of_epoch(self.position.epoch)
        at = self.position.cursor
        taken = range(at, min(at + global_batch, len(rows)))
        if taken.stop == len(rows):
            self.position = DataPosition(self.position.epoch + 1)
        else:
            self.position = DataPosition(self.position.epoch, taken.stop)
        return [
            build_batch(self.corpus, batch, micro_batch, self._width(batch), self.pad)
            for batch in _share(rows, taken, micro_batch, rank, world)
        ]

    def _make_rows(self, epoch: int) -> Rows:
        chosen = [self._drawn(source, epoch) for source in range(len(self.weights))]
        rng = np.random.default_rng([COMPANY, self.seed, epoch])
        # Shuffling before packing gives each document new neighbours every epoch.
        documents = rng.permutation(np.concatenate(chosen))
        if not len(documents):
            raise InputError(
                "the weights of data.train are so small that an epoch has no document; raise them"
            )
        if self.packing == "none":
            return Rows(documents, np.arange(len(documents) + 1))
        rows = _packed(documents, self.corpus.lengths[documents], self.seq_len)
        order = rng.permutation(len(rows))
        sizes = np.diff(rows.starts)[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        # Place p of the new order, in the row that starts at starts[r], came from rows.starts[...].
        places = np.repeat(rows.starts[order] - starts[:-1], sizes) + np.arange(len(documents))
        return Rows(rows.documents[places], starts)

    def _drawn(self, source: int, epoch: int) -> np.ndarray:
        """The documents of a source in one epoch: a stretch of its endless passes."""
        start, size = int(self.corpus.starts[source]), int(self.corpus.sizes[source])
        weight = self.weights[source]
        first, last = round(epoch * weight * size), round((epoch + 1) * weight * size)
        parts = [np.empty(0, np.int64)]
        for turn in range(first // size, -(-last // size)):
            rng = np.random.default_rng([PASSES, self.seed, source, turn])
            order = rng.permutation(size) + start
            parts.append(order[max(first - turn * size, 0) : last - turn * size])
        return np.concatenate(parts)

    def _width(self, batch: Sequence[np.ndarray]) -> int:
        if self.packing != "none":
            return self.seq_len
        longest = max((int(self.corpus.lengths[row].sum()) for row in batch), default=1)
        return min(math.ceil(longest / WIDTH_MULTIPLE) * WIDTH_MULTIPLE, self.seq_len)


def in_order(
    corpus: Corpus, n_rows: int, seq_len: int, pad: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """One pass for evaluation, packed once and never shuffled; every rank gets as many batches."""
    rows = _packed(np.arange(len(corpus)), corpus.lengths, seq_len)
    for batch in _share(rows, range(len(rows)), n_rows, rank, world):
        yield build_batch(corpus, batch, n_rows, seq_len, pad)


def _packed(documents: np.ndarray, lengths: np.ndarray, seq_len: int) -> Rows:
    row_of = best_fit(lengths, seq_len)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
    return Rows(documents[np.argsort(row_of, kind="stable")], starts)


def _share(
    rows: Rows, taken: range, n_rows: int, rank: int, world: int
) -> Iterator[list[np.ndarray]]:
    """A rank's rows of those taken, dealt like cards and cut into batches of up to `n_rows`."""
    mine = taken[rank::world]
    for batch in range(math.ceil(len(taken) / (world * n_rows))):
        yield [rows[r] for r in mine[batch * n_rows : (batch + 1) * n_rows]]
