"""The scheduler alone, with a cache of known size and tokens that the test chooses."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache
from hala_engine.sampling import SamplingParams
from hala_engine.scheduler import Scheduler, Sequence

SPEC = CacheSpec(1, 1, 4, 1, 2, 8)


def cache(pages: int, slots: int = 4, page_size: int = 4) -> Cache:
    return Cache(
        SPEC,
        num_pages=pages,
        page_size=page_size,
        max_sequences=slots,
        max_model_len=pages * page_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def sequence(index: int, prompt: int, output: int) -> Sequence:
    return Sequence(
        index=index,
        prompt=list(range(1, prompt + 1)),
        params=SamplingParams(max_new_tokens=output),
        seed=0,
        max_tokens=prompt + output,
        stop_ids=frozenset({0}),
    )


def run(scheduler: Scheduler, token: int = 5) -> list[Sequence]:
    finished = []
    steps = 0
    while scheduler.has_work:
        schedule = scheduler.schedule()
        assert schedule.chunks, "a step without work"
        assert sum(chunk.count for chunk in schedule.chunks) <= scheduler.max_batched_tokens
        slots = [chunk.sequence.slot for chunk in schedule.chunks]
        assert len(set(slots)) == len(slots) and min(slots) >= 0
        finished += scheduler.update(schedule, [token] * len(schedule.chunks))
        steps += 1
        assert steps < 5000
    return finished


def test_decodes_come_before_prompt_chunks_and_share_the_budget():
    scheduler = Scheduler(cache(pages=64), max_batched_tokens=8)
    scheduler.add(sequence(0, prompt=3, output=9))
    schedule = scheduler.schedule()
    assert [chunk.count for chunk in schedule.prefills] == [3]
    scheduler.update(schedule, [5])
    scheduler.add(sequence(1, prompt=20, output=2))
    schedule = scheduler.schedule()
    assert [chunk.count for chunk in schedule.decodes] == [1]
    assert [chunk.count for chunk in schedule.prefills] == [7]
    assert not schedule.prefills[0].samples


def test_a_sequence_waits_until_its_pages_are_free():
    pool = cache(pages=4)
    scheduler = Scheduler(pool, max_batched_tokens=64)
    scheduler.add(sequence(0, prompt=9, output=3))
    scheduler.add(sequence(1, prompt=9, output=3))
    assert [chunk.sequence.index for chunk in scheduler.schedule().chunks] == [0]
    assert len(scheduler.waiting) == 1


def test_the_youngest_sequence_gives_its_pages_back():
    pool = cache(pages=6)
    scheduler = Scheduler(pool, max_batched_tokens=64)
    for i in range(2):
        scheduler.add(sequence(i, prompt=4, output=16))
    finished = run(scheduler)
    assert scheduler.preemptions > 0
    assert [s.index for s in finished] == [0, 1]
    assert all(s.output == [5] * 16 for s in finished)


def test_stop_token_ends_and_is_left_out():
    scheduler = Scheduler(cache(pages=8), max_batched_tokens=64)
    scheduler.add(sequence(0, prompt=2, output=9))
    (finished,) = run(scheduler, token=0)
    assert finished.output == [] and finished.finish_reason == "stop"


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=12),
    budget=st.integers(1, 40),
    pages=st.integers(11, 30),
    slots=st.integers(1, 5),
    aligned=st.sampled_from([None, 8]),
)
def test_everything_finishes_and_everything_is_freed(requests, budget, pages, slots, aligned):
    pool = cache(pages, slots)
    scheduler = Scheduler(pool, max(budget, aligned or 1), aligned)
    for i, (prompt, output) in enumerate(requests):
        scheduler.add(sequence(i, prompt, output))
    finished = run(scheduler)
    assert sorted(s.index for s in finished) == list(range(len(requests)))
    assert all(len(s.output) == requests[s.index][1] for s in finished)
    assert (pool.free_pages, pool.free_slots) == (pages, slots)
    assert sorted(pool._free_pages) == list(range(1, pages + 1))
