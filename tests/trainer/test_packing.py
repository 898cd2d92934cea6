"""Packing loses nothing, wastes little, and lays tokens out as documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_trainer.data.documents import Corpus, Documents
from hala_trainer.data.packing import Rows, best_fit, build_batch


def corpus_of(*sources: list[int]) -> Corpus:
    """A source for each list of lengths; every token of document i is i."""
    parts, first = [], 0
    for lengths in sources:
        ids = np.repeat(np.arange(len(lengths)) + first, lengths).astype(np.uint16)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        parts.append(Documents(ids, np.arange(len(ids)) % 2 == 0, offsets))
        first += len(lengths)
    return Corpus(parts)


def one_by_one(lengths: list[int], capacity: int) -> list[int]:
    """How full the rows are when each document, longest first, goes to the fullest with room."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [r for r, used in enumerate(rows) if used + length <= capacity]
        if fitting:
            rows[max(fitting, key=rows.__getitem__)] += length
        else:
            rows.append(length)
    return sorted(rows)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=80))
@pytest.mark.parametrize("times", [1, 2, 5])  # documents of one length are placed together
def test_packing_is_best_fit_of_every_document(times, lengths):
    lengths = lengths * times
    row_of = best_fit(np.array(lengths), 16)
    used = np.bincount(row_of, weights=lengths)
    assert sorted(used.astype(int).tolist()) == one_by_one(lengths, 16)


def test_best_fit_takes_the_fullest_row_with_room():
    assert best_fit(np.array([9, 7, 3, 1]), 10).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_no_row_can_hold_is_an_error(length):
    with pytest.raises(ValueError, match=r"1\.\.10"):
        best_fit(np.array([3, length]), 10)


def test_batch_layout():
    corpus = corpus_of([3, 1, 2])
    batch = build_batch(corpus, [np.array([1, 0]), np.array([2])], n_rows=3, seq_len=5, pad=9)
    assert batch.ids.tolist() == [[1, 0, 0, 0, 9], [2, 2, 9, 9, 9], [9] * 5]
    assert batch.positions.tolist() == [[0, 0, 1, 2, 0], [0, 1, 0, 0, 0], [0] * 5]
    assert batch.documents.tolist() == [[0, 1, 1, 1, 2], [0, 0, 1, 1, 1], [0] * 5]
    assert batch.supervised.astype(int).tolist() == [[0, 0, 0, 1, 0], [0] * 5, [0] * 5]
    assert batch.lengths.tolist() == [1, 3, 2]
    assert batch.real_tokens == 6
    dtypes = [getattr(batch, n).dtype for n in ("ids", "positions", "documents", "supervised")]
    assert dtypes == [np.int64, np.int64, np.int32, bool]


def test_rows_are_a_sequence():
    rows = Rows(np.array([4, 2, 7]), np.array([0, 2, 3]))
    assert [row.tolist() for row in rows] == [[4, 2], [7]]
    assert len(rows) == 2
