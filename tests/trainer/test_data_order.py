"""The order comes from the seed alone: the same after a resume and on any number of processes."""

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_trainer.data.order import DataPosition, PackedRows, in_order
from hala_trainer.errors import InputError
from tests.trainer.test_packing import corpus_of

SEQ_LEN, PAD = 16, 50_000
LENGTHS = np.random.default_rng(0).integers(1, 9, 60).tolist()
lengths = st.lists(st.integers(1, SEQ_LEN), min_size=1, max_size=60)
packings = st.sampled_from(["best_fit", "none"])


def packed(*sources, weights=(), seed=3, packing="best_fit") -> PackedRows:
    return PackedRows(corpus_of(*sources), weights, SEQ_LEN, PAD, seed, packing)


def contents(batches) -> list[tuple[int, ...]]:
    """The documents of every row that is not all padding (each token of document i is i)."""
    rows = []
    for batch in batches:
        for ids, documents in zip(batch.ids, batch.documents, strict=True):
            count = len(np.unique(documents[ids != PAD]))
            rows.append(tuple(int(ids[np.argmax(documents == n)]) for n in range(count)))
    return [row for row in rows if row]


def drawn(rows: PackedRows, steps: int) -> list:
    return [contents(rows.next_step(4, 2, 0, 1)) for _ in range(steps)]


def epoch_of(rows: PackedRows, epoch: int) -> list[int]:
    return np.concatenate(list(rows.rows_of_epoch(epoch))).tolist()


@settings(max_examples=50, deadline=None)
@given(lengths, packings, st.integers(0, 2))
def test_steps_of_an_epoch_see_every_document_once(lengths, packing, seed):
    rows = packed(lengths, seed=seed, packing=packing)
    for epoch in (0, 1):
        seen = []
        while rows.position.epoch == epoch:
            seen += chain.from_iterable(contents(rows.next_step(4, 2, 0, 1)))
        assert sorted(seen) == list(range(len(lengths)))


@settings(max_examples=50, deadline=None)
@given(lengths, packings)
def test_ranks_share_the_steps_of_one_process(lengths, packing):
    alone = packed(lengths, packing=packing)
    ranks = {world: [packed(lengths, packing=packing) for _ in range(world)] for world in (2, 3, 4)}
    while alone.position.epoch < 2:
        whole = contents(alone.next_step(12, 2, 0, 1))
        for world, runs in ranks.items():
            micro_batch = {2: 3, 3: 4, 4: 1}[world]
            shares = [r.next_step(12, micro_batch, n, world) for n, r in enumerate(runs)]
            assert len({len(share) for share in shares}) == 1
            assert all(len(b.ids) == micro_batch for share in shares for b in share)
            together = [row for share in shares for row in contents(share)]
            assert sorted(together) == sorted(whole)
            counts = [len(contents(share)) for share in shares]
            assert max(counts) - min(counts) <= 1  # nobody idles while others work
            assert all(run.position == alone.position for run in runs)


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@pytest.mark.parametrize("after", [1, 5, 17, 29])
def test_a_run_resumed_in_mid_epoch_goes_on_as_if_never_stopped(packing, after):
    whole = drawn(packed(LENGTHS, packing=packing), 40)
    stopped = packed(LENGTHS, packing=packing)
    drawn(stopped, after)
    resumed = packed(LENGTHS, packing=packing)
    resumed.position = DataPosition(stopped.position.epoch, stopped.position.cursor)
    assert drawn(resumed, 40 - after) == whole[after:]


def test_another_seed_is_another_order():
    assert drawn(packed(LENGTHS), 5) == drawn(packed(LENGTHS), 5)
    assert drawn(packed(LENGTHS, seed=4), 5) != drawn(packed(LENGTHS), 5)


def test_each_epoch_sees_every_document_in_new_company_and_order():
    rows = packed(LENGTHS)
    first, second = ([tuple(r) for r in rows.rows_of_epoch(epoch)] for epoch in (0, 1))
    assert {frozenset(r) for r in first} != {frozenset(r) for r in second}
    assert epoch_of(rows, 0) != epoch_of(rows, 1)


def test_rows_are_not_in_the_order_of_packing():
    totals = [sum(LENGTHS[d] for d in row) for row in packed(LENGTHS).rows_of_epoch(0)]
    longest = [max(LENGTHS[d] for d in row) for row in packed(LENGTHS).rows_of_epoch(0)]
    assert max(totals) <= SEQ_LEN
    assert longest != sorted(longest, reverse=True)


def test_the_last_step_of_an_epoch_has_what_is_left():
    rows = packed([SEQ_LEN] * 10)
    sizes = [[len(contents([b])) for b in rows.next_step(8, 2, 0, 1)] for _ in range(4)]
    assert sizes == [[2, 2, 2, 2], [2], [2, 2, 2, 2], [2]]
    assert [len(packed([SEQ_LEN]).next_step(8, 2, rank, 4)) for rank in range(4)] == [1] * 4


def test_weights_repeat_sources():
    rows = packed([2] * 10, [2] * 8, weights=[2.0, 1.0])
    for epoch in (0, 1):
        assert sorted(epoch_of(rows, epoch)) == sorted([*range(10), *range(10), *range(10, 18)])


def test_a_fraction_of_a_pass_goes_on_in_the_next_epoch():
    rows = packed([2] * 10, [2] * 8, weights=[1.0, 0.25])
    thin = [[d for d in epoch_of(rows, epoch) if d >= 10] for epoch in range(8)]
    assert [len(part) for part in thin] == [2] * 8
    passes = [list(chain.from_iterable(thin[:4])), list(chain.from_iterable(thin[4:]))]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10, 18))
    assert [set(part) for part in thin[:4]] != [set(part) for part in thin[4:]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 3.5))
def test_epochs_take_as_much_of_a_source_as_its_weight_says(size, weight):
    rows = packed([2] * size, [1], weights=[weight, 1.0])
    counts = np.zeros(size, int)
    for epoch in range(4):
        counts += np.bincount([d for d in epoch_of(rows, epoch) if d < size], minlength=size)
        assert counts.sum() == round((epoch + 1) * weight * size)
        assert counts.max() - counts.min() <= 1


def test_sources_are_mixed_and_have_their_own_shuffles():
    epoch = epoch_of(packed([2] * 30, [2] * 30, weights=[0.5, 0.5], packing="none"), 0)
    assert {d for d in epoch if d < 30} != {d - 30 for d in epoch if d >= 30}
    assert min(epoch[:15]) < 30 <= max(epoch[:15])


def test_every_epoch_and_seed_mixes_sources_in_another_way():
    mixes = []
    for seed in (0, 1):
        rows = packed([2] * 30, [2] * 30, packing="none", seed=seed)
        mixes += [tuple(d < 30 for d in epoch_of(rows, epoch)) for epoch in (0, 1)]
    assert len(set(mixes)) == 4


def test_weights_that_choose_nothing_are_refused():
    with pytest.raises(InputError, match=r"the weights of data\.train are so small"):
        packed([2] * 10, weights=[0.01]).rows_of_epoch(0)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (0.5, 2), (1.2, 4), (0.1, 1)])
def test_epochs_are_counted_in_steps(epochs, steps):
    rows = packed([SEQ_LEN] * 10)
    assert rows.steps(epochs, global_batch=4) == steps
    if epochs == int(epochs):
        for _ in range(steps):
            rows.next_step(4, 4, 0, 1)
        assert rows.position == DataPosition(epochs, 0)


def test_unpacked_batches_are_as_wide_as_their_longest_document():
    rows = packed([3, 5, 9, 16, 2, 1, 7, 8], packing="none")
    widths = set()
    for batch in (b for _ in range(4) for b in rows.next_step(2, 1, 0, 1)):
        (longest,) = batch.lengths
        assert batch.ids.shape == (1, 8 if longest <= 8 else 16)
        widths.add(batch.ids.shape[1])
    assert widths == {8, 16}
    narrow = PackedRows(corpus_of([9, 3]), [], 10, PAD, 0, "none")
    (batch,) = narrow.next_step(2, 2, 0, 1)
    assert batch.ids.shape == (2, 10)  # never wider than seq_len


@settings(max_examples=50, deadline=None)
@given(lengths, st.integers(1, 3), st.integers(1, 4))
def test_evaluation_sees_every_document_once_on_any_world(lengths, n_rows, world):
    corpus = corpus_of(lengths)
    ranks = [list(in_order(corpus, n_rows, SEQ_LEN, PAD, rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    rows = [row for batches in ranks for row in contents(batches)]
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths)))
    assert sorted(rows) == sorted(contents(in_order(corpus, n_rows, SEQ_LEN, PAD)))


def test_an_epoch_is_full_and_made_in_little_memory():
    """For 4.5 million documents it is 45 times as much memory, and a second or two."""
    sizes = np.random.default_rng(0).lognormal(3.4, 0.8, 100_000).clip(1, 128).astype(int)
    rows = PackedRows(corpus_of(sizes), [], 128, PAD, 0)
    tracemalloc.start()
    made = rows.rows_of_epoch(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes.sum() / (len(made) * 128) > 0.99
    assert peak < 12e6
