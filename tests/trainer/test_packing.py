"""Packing loses nothing, wastes little, and its order depends on the seed alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_trainer.dataset import Documents
from hala_trainer.packing import DataPosition, PackedRows, best_fit, build_batch


def documents(lengths, first_id=10) -> Documents:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(len(lengths)) + first_id, lengths).astype(np.uint16)
    return Documents(ids, np.zeros(offsets[-1], bool), offsets)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=80))
def test_every_document_is_packed_once_and_no_row_overflows(lengths):
    rows = best_fit(np.array(lengths), 16)
    assert sorted(d for row in rows for d in row) == list(range(len(lengths)))
    assert all(sum(lengths[d] for d in row) <= 16 for row in rows)
    open_rows = [row for row in rows if sum(lengths[d] for d in row) <= 8]
    assert len(open_rows) <= 1  # two half-empty rows would have been one


def test_best_fit_takes_the_fullest_row_with_room():
    rows = best_fit(np.array([9, 7, 3, 1]), 10)
    assert sorted(map(sorted, rows)) == [[0, 3], [1, 2]]


def test_batch_layout():
    docs = documents([3, 1, 2])
    batch = build_batch(docs, [[0, 1], [2]], n_rows=3, seq_len=5, pad=0)
    assert batch.ids.tolist() == [[10, 10, 10, 11, 0], [12, 12, 0, 0, 0], [0] * 5]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 0, 0], [0] * 5]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 1, 1], [0] * 5]
    assert batch.real_tokens == 6


def drawn(rows: PackedRows, steps: int) -> list[list]:
    return [[b.ids.tolist() for b in rows.next_step(2, 1)] for _ in range(steps)]


def test_order_is_reproducible_and_resumes_in_mid_epoch():
    docs = documents(np.random.default_rng(0).integers(1, 9, 60))
    whole = drawn(PackedRows([docs], [], 16, 0, seed=3), 40)
    resumed = PackedRows([docs], [], 16, 0, seed=3)
    drawn(resumed, 17)
    later = PackedRows([docs], [], 16, 0, seed=3)
    later.position = DataPosition(resumed.position.epoch, resumed.position.cursor)
    assert drawn(later, 23) == whole[17:]
    assert drawn(PackedRows([docs], [], 16, 0, seed=4), 5) != whole[:5]


def test_each_epoch_sees_every_document_in_new_company():
    docs = documents(np.random.default_rng(0).integers(1, 9, 60))
    rows = PackedRows([docs], [], 16, 0, seed=0)
    first, second = list(rows.rows_of_epoch(0)), list(rows.rows_of_epoch(1))
    for epoch in (first, second):
        assert sorted(d for row in epoch for d in row) == list(range(60))
    assert {frozenset(r) for r in first} != {frozenset(r) for r in second}


def test_weights_repeat_and_thin_sources():
    a, b = documents([2] * 10), documents([2] * 8, first_id=50)
    rows = PackedRows([a, b], [2.0, 0.25], 16, 0, seed=0)
    for epoch in (0, 1):
        picked = [d for row in rows.rows_of_epoch(epoch) for d in row]
        assert sorted(d for d in picked if d < 10) == sorted([*range(10), *range(10)])
        assert len({d for d in picked if d >= 10}) == 2
