"""Shared prefixes: which are found, that each is computed once, and that what follows one is what
it would be without."""

from __future__ import annotations

import random

import numpy as np
import pytest
from histories import check_accounts, check_slot, check_snapshot, make_cache, write
from test_scheduler import advance, run, scheduler, sequence, snapshots

from hala_engine.prefix import LEAST_GAIN, MOST_KNOWN, Prefix, SharedPrefixes


def found(prompts: list[list[int]], align: int = 1) -> list[int]:
    """Lengths of the prefixes that these requests, one after the other, have in common."""
    prefixes = SharedPrefixes(make_cache(pages=1, snapshots=16), 16, align)
    for prompt in prompts:
        prefixes.note(prompt)
    for prefix in prefixes._known:
        assert sum(prompt[: prefix.length] == prefix.tokens for prompt in prompts) >= 2
    return sorted(len(prefix.tokens) for prefix in prefixes._known)


def template(length: int, first: int = 1000) -> list[int]:
    return list(range(first, first + length))


@pytest.mark.parametrize("length", [8, 9, 15, 16, 17, 37, 300])
def test_a_template_is_found_whatever_its_length(length):
    assert found([[*template(length), i, i + 1] for i in range(5)]) == [length]


def test_too_short_a_template_is_not_worth_it():
    assert found([template(LEAST_GAIN - 1) + [i] * 20 for i in range(9)]) == []


def test_identical_prompts_share_all_but_a_last_token():
    """A last token must be computed for what follows it to be drawn."""
    assert found([template(20)] * 4) == [19]
    assert found([template(20), template(12)]) == [11]


def test_prompts_of_a_token_or_two():
    assert found([[1]] * 5 + [[1, 2]] * 5 + [[2]]) == []


def test_a_prefix_within_a_prefix():
    """Chat template, then an instruction, then texts that begin alike."""
    deep = template(12) + template(10, 2000)
    prompts = [template(12) + [i] * 9 for i in range(3)]
    prompts += [deep + [i] * 9 for i in range(3)]
    assert found(prompts) == [12, 22]
    assert found([*prompts, *(deep + [7] * 7 + [i] for i in range(3))]) == [12, 22]
    assert found([*prompts, *(deep + [7] * 8 + [i] for i in range(3))]) == [12, 22, 30]


def test_the_longest_first_and_then_what_is_common_to_more():
    prompts = [[*template(40), 1], [*template(40), 2], [*template(20), *[3] * 9]]
    assert found(prompts[:2]) == [40]
    assert found(prompts) == [20, 40]


def test_columns_that_take_turns():
    """Two templates in alternation; three, too."""
    for columns in (2, 3):
        prompts = [[*template(20, 1000 * (i % columns + 1)), i] for i in range(9)]
        assert found(prompts) == [20] * columns


def test_prefixes_end_where_deterministic_chunks_end():
    assert found([[*template(600), i] for i in range(3)], align=256) == [512]
    assert found([[*template(255), i] for i in range(3)], align=256) == []
    assert found([[*template(256), i] for i in range(3)], align=256) == [256]
    assert found([template(257)] * 3, align=256) == [256]
    assert found([template(256)] * 3, align=256) == []


def keep(prefixes: SharedPrefixes, tokens: list[int]) -> Prefix:
    """Make the prefix known, compute it and keep it; its founder leaves."""
    prefixes.note([*tokens, -1])
    prefixes.note([*tokens, -2])
    prefix = prefixes.find([*tokens, -3])[1]
    assert prefix.tokens == tokens
    cache = prefixes.cache
    slot = cache.open_slot()
    assert cache.grow(slot, len(tokens))
    write(cache, slot, tokens, 0)
    cache.slide(np.array([slot]), np.array([len(tokens)]))
    prefixes.keep(prefix, slot)
    cache.close_slot(slot)
    return prefix


def test_what_was_wanted_longest_ago_makes_room():
    cache = make_cache((None, 4), pages=60, snapshots=2)
    prefixes = SharedPrefixes(cache, 2)
    a, b = keep(prefixes, template(10, 1000)), keep(prefixes, template(11, 2000))
    slot = cache.open_slot()
    assert prefixes.use(a, slot)
    check_slot(cache, slot, a.tokens)
    cache.close_slot(slot)
    c = keep(prefixes, template(9, 3000))
    assert a.kept and c.kept and not b.kept
    prefixes.note([*a.tokens, 5])  # waiting counts as wanting
    d = keep(prefixes, template(9, 4000))
    assert a.kept and d.kept and not c.kept
    check_accounts(cache, [a.kept, d.kept])
    prefixes.clear()
    assert cache.free_pages == 60 and cache.free_snapshots == 2


def test_known_prefixes_do_not_pile_up():
    cache = make_cache(pages=60, snapshots=2)
    prefixes = SharedPrefixes(cache, 2)
    first = keep(prefixes, template(10))
    for i in range(2, MOST_KNOWN + 10):
        for last in (1, 2):
            prefixes.note([*template(10, 1000 * i), last])
    assert len(prefixes._known) == MOST_KNOWN
    assert first.kept is None and cache.free_pages == 60


def test_a_template_stays_however_many_prefixes_begin_with_it():
    """Sixty prompts recur in random order, each a prefix of its own: more than are kept. What all
    share is computed once all the same."""
    chance = random.Random(0)
    cache = make_cache(pages=300, slots=8, snapshots=4)
    scheduling = scheduler(cache, budget=60, prefixes=4)
    texts = [[*template(20), *[100 + i] * 12] for i in range(60)]
    for i in range(600):
        scheduling.add(sequence(i, chance.choice(texts), output=3))
        if len(scheduling.waiting) > 16:
            advance(scheduling, lambda s: 1)
    run(scheduling)
    assert scheduling.shared_tokens > 0.98 * 600 * 20


def test_no_limit_no_prefixes():
    prefixes = SharedPrefixes(make_cache(pages=1), 0)
    for i in range(3):
        prefixes.note([*template(20), i])
    assert prefixes.find([*template(20), 9]) == (None, None)


def test_a_prefix_that_is_restored_is_not_dropped_for_it():
    """All pages are held: the partial one cannot be copied, and nothing changes."""
    cache = make_cache((None, None), pages=3, snapshots=1)
    prefixes = SharedPrefixes(cache, 1)
    prefix = keep(prefixes, template(10))
    slot = cache.open_slot()
    assert not prefixes.use(prefix, slot)
    check_snapshot(cache, prefix.kept, prefix.tokens)
    check_accounts(cache, [prefix.kept])
    assert cache.grow(slot, 12) and not prefix.kept  # from scratch, it gets the pages


def test_room_is_not_made_in_vain():
    """A sequence holds what the prefix holds, so dropping it would free one page only."""
    cache = make_cache(pages=5, snapshots=1)
    prefixes = SharedPrefixes(cache, 1)
    prefix = keep(prefixes, template(10))
    assert prefixes.use(prefix, cache.open_slot())
    other = cache.open_slot()
    assert cache.free_pages == 1
    assert not cache.grow(other, 12) and prefix.kept
    assert cache.grow(other, 8) and not prefix.kept


def test_waiting_for_pages_does_not_cost_the_prefix():
    """The head of the queue waits for pages that the running sequences hold, step after step."""
    cache = make_cache(pages=12, snapshots=1)
    scheduling = scheduler(cache, budget=64, prefixes=1)
    for i in range(6):
        scheduling.add(sequence(i, [*template(16), i, i, i], output=5))
    finished = run(scheduling)
    assert len(finished) == 6 and scheduling.preemptions == 0
    assert scheduling.shared_tokens == 5 * 16


def test_a_kept_prefix_counts_towards_the_pages_of_a_new_sequence():
    """Seven pages are not free, but six of them are those of the prefix."""
    cache = make_cache(pages=14, snapshots=1)
    scheduling = scheduler(cache, budget=64, prefixes=1)
    prefix = keep(scheduling.prefixes, template(24))
    scheduling.add(sequence(0, 8, output=3))
    advance(scheduling, lambda s: 1)
    assert cache.free_pages == 6
    scheduling.add(sequence(1, [*template(24), 1, 2], output=2))
    schedule, _ = advance(scheduling, lambda s: 1)
    assert [(c.sequence.index, c.count) for c in schedule.chunks] == [(0, 1), (1, 2)]
    assert prefix.kept


def computed(prompts: list[list[int]], *, budget: int = 64, output: int = 3, **cache) -> list[int]:
    """Prompt tokens that each request computes, all asked for at once."""
    cache = make_cache(**({"pages": 200, "snapshots": 8, "slots": 8} | cache))
    scheduling = scheduler(cache, budget, prefixes=cache.free_snapshots)
    counts = [0] * len(prompts)
    for i, prompt in enumerate(prompts):
        scheduling.add(sequence(i, prompt, output))
    while scheduling.has_work:
        schedule, _ = advance(scheduling, lambda s: 1 + s.index)
        for chunk in schedule.chunks:
            if chunk.end <= len(chunk.sequence.prompt):
                counts[chunk.sequence.index] += chunk.count
    return counts


@pytest.mark.parametrize("length", [8, 11, 16, 50])
@pytest.mark.parametrize("windows", [(None,), (6, None), ()])
def test_the_prefix_is_computed_exactly_once(length, windows):
    prompts = [template(length) + [i] * (i % 3 + 1) for i in range(20)]
    counts = computed(prompts, budget=16, windows=windows)
    assert counts[0] == length + 1
    assert counts[1:] == [i % 3 + 1 for i in range(1, 20)]


def test_a_prefix_within_a_prefix_is_continued():
    """The founder of the longer one begins with the shorter one."""
    short, long = template(12), template(12) + template(10, 2000)
    prompts = [short + [i] * 9 for i in range(2)] + [long + [i] * 9 for i in range(2)]
    assert computed(prompts) == [21, 9, 19, 9]


def test_what_the_most_share_is_computed_first():
    """All requests begin with both prefixes. The first computes the shorter one for others, though
    it is not the longest that is known, and the second the longer one."""
    prompts = [[*template(12), *[i] * 9] for i in range(2)]
    long = template(12) + template(10, 2000)
    scheduling = scheduler(make_cache(pages=60, snapshots=2), budget=64, prefixes=2)
    for prompt in prompts:
        scheduling.prefixes.note(prompt)
    for i in range(4):
        scheduling.add(sequence(i, [*long, i], output=2))
    steps = [advance(scheduling, lambda s: 1)[0].chunks for _ in range(3)]
    assert [[(c.sequence.index, c.count) for c in chunks] for chunks in steps] == [
        [(0, 12)],
        [(0, 11), (1, 10)],
        [(0, 1), (1, 1), (2, 1), (3, 1)],
    ]


def test_samples_of_a_prompt_are_computed_once_each_although_many_wait():
    """Two of each of thirty prompts wait together: more prefixes than are kept."""
    prompts = [template(20, 1000 * (i // 2 + 1)) for i in range(60)]
    assert computed(prompts, budget=40, snapshots=3) == [20, 1] * 30


def test_those_behind_a_waiting_request_pass_it():
    cache = make_cache(pages=60, snapshots=2)
    scheduling = scheduler(cache, budget=20, prefixes=2)
    for i in range(2):
        scheduling.add(sequence(i, [*template(30), i], output=2))
    scheduling.add(sequence(2, 5, output=2))
    first, second, third = (advance(scheduling, lambda s: 1)[0] for _ in range(3))
    assert [(c.sequence.index, c.count) for c in first.chunks] == [(0, 20)]
    assert [(c.sequence.index, c.count) for c in second.chunks] == [(0, 10), (2, 5)]
    assert [(c.sequence.index, c.count) for c in third.chunks] == [(0, 1), (2, 1), (1, 1)]


def test_short_prompts_with_the_same_first_tokens_do_not_wait():
    """Noise: begin-of-sequence and a word are common, sometimes up to seven tokens."""
    chance = random.Random(3)
    cache = make_cache(pages=400, slots=64, snapshots=16)
    scheduling = scheduler(cache, budget=10_000, prefixes=16)
    for i in range(64):
        shared = template(chance.randint(2, LEAST_GAIN - 1))
        rest = [chance.randint(1, 999) for _ in range(chance.randint(1, 9))]
        scheduling.add(sequence(i, shared + rest, output=2))
    assert len(scheduling.schedule().prefills) == 64
    assert scheduling.shared_tokens == 0


def test_requests_for_scores_of_the_prompt_neither_share_nor_found():
    scheduling = scheduler(make_cache(pages=60, snapshots=2), budget=64, prefixes=2)
    prompt = template(20)
    for i in range(2):
        scheduling.add(sequence(i, [*prompt, i], output=2, prompt_logprobs=True))
    assert scheduling.prefixes.find([*prompt, 9])[1] is None
    for i in range(2, 4):
        scheduling.add(sequence(i, [*prompt, i], output=2))
    assert scheduling.prefixes.find([*prompt, 9])[1].tokens == prompt
    schedule = scheduling.schedule()
    assert [(c.sequence.index, c.count) for c in schedule.chunks] == [(0, 21), (1, 21), (2, 20)]


def test_a_founder_that_is_preempted_hands_over():
    """An older sequence takes the founder's pages before the prefix is done. Nobody is left
    waiting for it, and nothing of it stays behind."""
    cache = make_cache(pages=10, snapshots=1)
    scheduling = scheduler(cache, budget=2, prefixes=1)
    scheduling.add(sequence(0, 6, output=30))
    for i in range(1, 4):
        scheduling.add(sequence(i, [*template(20), i], output=2))
    preempted, finished = [], []
    while scheduling.has_work:
        founding = [s for s in scheduling.running if s.founding]
        _, done = advance(scheduling, lambda s: 1 + s.index)
        finished += [s.index for s in done]
        preempted += [s.index for s in founding if s.slot < 0]
        check_accounts(cache, snapshots(scheduling.prefixes))
    assert preempted == [1]
    assert finished == [0, 1, 2, 3]
    assert scheduling.shared_tokens == 2 * 20
    scheduling.prefixes.clear()
    assert cache.free_pages == 10
