"""The scheduler alone, with a cache of known size and tokens that the test chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from histories import check_accounts, make_cache, step
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine.cache import Cache
from hala_engine.errors import JobError
from hala_engine.prefix import SharedPrefixes
from hala_engine.sampling import SamplingParams
from hala_engine.schedule import Drawn, Schedule
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence


def scheduler(
    cache: Cache, budget: int, aligned: int | None = None, prefixes: int = 0
) -> Scheduler:
    return Scheduler(cache, SharedPrefixes(cache, prefixes, aligned or 1), budget, aligned)


def sequence(index: int, prompt: int | list[int], output: int, **params) -> Sequence:
    """A prompt of that many tokens that no other begins with, or of those."""
    if isinstance(prompt, int):
        prompt = [100 + index, *range(1, prompt)]
    return Sequence(
        index=index,
        prompt=prompt,
        params=SamplingParams(max_new_tokens=output, **params),
        seed=0,
        max_tokens=len(prompt) + output,
        stop_ids=frozenset({0}),
    )


def advance(scheduler: Scheduler, token: Callable[[Sequence], int]) -> tuple[Schedule, list]:
    """One step; the schedule as it was, and what finished."""
    schedule = scheduler.schedule()
    chunks = schedule.chunks
    assert chunks, "a step without work"
    assert sum(chunk.count for chunk in chunks) <= scheduler.max_batched_tokens
    assert all(chunk.count == 1 for chunk in schedule.decodes)
    slots = [chunk.sequence.slot for chunk in chunks]
    assert len(set(slots)) == len(slots) and min(slots) >= 0
    step(scheduler.cache, schedule)
    tokens = [token(chunk.sequence) for chunk in chunks if chunk.samples]
    return schedule, scheduler.update(schedule, Drawn(np.array(tokens, dtype=np.int64)))


def run(
    scheduler: Scheduler, token: Callable[[Sequence], int] = lambda sequence: 5
) -> list[Sequence]:
    finished: list[Sequence] = []
    for _ in range(20_000):
        if not scheduler.has_work:
            return finished
        finished += advance(scheduler, token)[1]
    raise AssertionError("it does not come to an end")


def snapshots(prefixes: SharedPrefixes) -> list:
    return [prefix.kept for prefix in prefixes._known if prefix.kept]


def test_decodes_and_prompt_chunks_share_the_budget():
    scheduling = scheduler(make_cache(pages=64), budget=8)
    scheduling.add(sequence(0, prompt=3, output=9))
    schedule, _ = advance(scheduling, lambda s: 5)
    assert [chunk.count for chunk in schedule.prefills] == [3]
    scheduling.add(sequence(1, prompt=20, output=2))
    schedule = scheduling.schedule()
    assert [chunk.count for chunk in schedule.decodes] == [1]
    assert [chunk.count for chunk in schedule.prefills] == [7]
    assert not schedule.prefills[0].samples


def test_a_sequence_waits_until_its_pages_are_free():
    scheduling = scheduler(make_cache(pages=4), budget=64)
    scheduling.add(sequence(0, prompt=9, output=3))
    scheduling.add(sequence(1, prompt=9, output=3))
    assert [chunk.sequence.index for chunk in scheduling.schedule().chunks] == [0]
    assert len(scheduling.waiting) == 1


def test_the_longest_of_those_added_together_begin_first():
    scheduling = scheduler(make_cache(pages=64, slots=2), budget=64)
    sizes = [(3, 4), (9, 3), (2, 30), (5, 7)]
    scheduling.add(*(sequence(i, prompt, output) for i, (prompt, output) in enumerate(sizes)))
    scheduling.add(sequence(4, prompt=20, output=20))  # later, so behind them
    started = []
    while scheduling.has_work:
        schedule, _ = advance(scheduling, lambda s: 5)
        started += [chunk.sequence.index for chunk in schedule.prefills if not chunk.start]
    assert started == [2, 1, 3, 0, 4]


def test_sequences_that_fit_at_full_length_all_run_at_once():
    scheduling = scheduler(make_cache(pages=4 * 3, max_model_len=12), budget=64)
    for i in range(4):
        scheduling.add(sequence(i, prompt=9, output=3))
    assert len(scheduling.schedule().prefills) == 4


@pytest.mark.parametrize("windows", [(None,), (None, 6), (6, 6, 6, None)])
def test_the_youngest_sequence_gives_its_pages_back(windows):
    groups = len(make_cache(windows, pages=1).spec.groups)
    scheduling = scheduler(make_cache(windows, pages=6 * groups), budget=64)
    for i in range(2):
        scheduling.add(sequence(i, prompt=4, output=20))
    finished = run(scheduling, lambda s: s.index + 1)
    assert scheduling.preemptions > 0
    assert [s.index for s in finished] == [0, 1]
    assert all(s.output == [s.index + 1] * 20 for s in finished)


def test_stop_token_ends_and_is_left_out():
    scheduling = scheduler(make_cache(pages=8), budget=64)
    scheduling.add(sequence(0, prompt=2, output=9))
    (finished,) = run(scheduling, lambda s: 0)
    assert finished.output == [] and finished.finish_reason == "stop"


def test_pages_that_a_window_has_left_serve_others():
    """Two sequences of 100 tokens run side by side in the pages of one, without preemption."""
    scheduling = scheduler(make_cache((8,), pages=25, max_model_len=100), budget=8)
    for i in range(2):
        scheduling.add(sequence(i, prompt=60, output=40))
    run(scheduling)
    assert scheduling.preemptions == 0


prompts = st.one_of(
    st.integers(1, 30),
    # A template of a few, cut anywhere, and a rest.
    st.builds(
        lambda template, cut, rest: [template * 10 + i for i in range(cut)] + rest,
        st.integers(1, 2),
        st.integers(0, 24),
        st.lists(st.integers(1, 3), min_size=1, max_size=8),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(
        st.tuples(prompts, st.integers(1, 12), st.booleans()), min_size=1, max_size=14
    ),
    windows=st.sampled_from([(None,), (), (5,), (None, 5), (9, 9, None, 3)]),
    budget=st.integers(1, 40),
    spare=st.integers(0, 30),
    slots=st.integers(1, 5),
    aligned=st.sampled_from([None, 8]),
    kept=st.integers(0, 3),
    stop_after=st.one_of(st.none(), st.integers(0, 30)),
)
def test_everything_finishes_and_everything_is_freed(
    requests, windows, budget, spare, slots, aligned, kept, stop_after
):
    """Whatever is asked for together, each step has work and computes from the right history, and
    what a run that is broken off leaves behind does not stand in the way of another."""
    budget = max(budget, aligned or 1)
    longest = 44
    need = make_cache(windows, pages=1).spec.pages(longest, 4, budget)
    cache = make_cache(windows, pages=need + spare, slots=slots, snapshots=kept, max_model_len=44)
    prefixes = SharedPrefixes(cache, kept, aligned or 1)

    def token(sequence: Sequence) -> int:
        return 1 + (sequence.index + len(sequence.output)) % 9

    for broken_off in (stop_after, None):
        scheduling = Scheduler(cache, prefixes, budget, aligned)
        finished = []
        for i, (prompt, output, scores) in enumerate(requests):
            scheduling.add(sequence(i, prompt, output, prompt_logprobs=scores))
        if broken_off is not None:
            for _ in range(broken_off):
                if scheduling.has_work:
                    advance(scheduling, token)
                    check_accounts(cache, snapshots(prefixes))
            scheduling.abort()
        else:
            finished = run(scheduling, token)
        check_accounts(cache, snapshots(prefixes))
        assert cache.free_slots == slots
        assert not any(prefix.is_coming for prefix in prefixes._known)
    assert sorted(s.index for s in finished) == list(range(len(requests)))
    for done in finished:
        assert len(done.output) == requests[done.index][1]
    prefixes.clear()
    assert cache.free_pages == need + spare and cache.free_snapshots == kept


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=2, max_size=12),
    budget=st.integers(8, 40),
    spare=st.integers(0, 30),
    data=st.data(),
)
def test_aligned_chunks_depend_on_the_sequence_alone(requests, budget, spare, data):
    """Each sequence is computed in the same pieces as when it runs alone, but for those of a prefix
    that it shares, which are whole pieces."""
    index = data.draw(st.integers(0, len(requests) - 1))

    def pieces(chosen: list[int]) -> dict[int, int]:
        """First token -> tokens of each piece of the sequence `index`, of its last run."""
        cache = make_cache(pages=11 + spare, snapshots=2, max_model_len=44)
        scheduling = scheduler(cache, budget, aligned=8, prefixes=2)
        found: dict[int, int] = {}
        for i in chosen:
            scheduling.add(sequence(i, *requests[i]))
        while scheduling.has_work:
            before = {s.index: s.computed for s in scheduling.running}
            schedule, _ = advance(scheduling, lambda s: 1 + s.index)
            for chunk in schedule.chunks:
                if chunk.sequence.index == index:
                    if chunk.start == 0 or index not in before:
                        found = {}
                    found[chunk.start] = chunk.count
        return found

    alone, together = pieces([index]), pieces(list(range(len(requests))))
    first = min(together)
    assert first % 8 == 0
    assert together == {start: n for start, n in alone.items() if start >= first}


def test_a_sequence_that_can_never_fit_ends_the_run_with_a_message():
    alone = scheduler(make_cache(pages=2, page_size=4, max_model_len=12), budget=16)
    alone.add(sequence(0, prompt=9, output=1))
    with pytest.raises(JobError, match="2 pages do not hold 9 tokens"):
        run(alone)
