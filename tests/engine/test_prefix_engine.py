"""Shared prefixes in the engine: the logits are those without sharing, and nothing leaks."""

from __future__ import annotations

import random

import pytest
import torch
from all_logits import AllLogits
from checkpoints import VOCAB, write_checkpoint
from histories import check_accounts
from test_scheduler import snapshots

from hala_engine import Engine, EngineConfig, SamplingParams

PARAMS = SamplingParams(max_new_tokens=5, ignore_eos=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lfm2")
    write_checkpoint(directory)
    return directory


def engine(directory, **settings) -> Engine:
    defaults = {"device": "cpu", "dtype": "float32", "max_batch_size": 8}
    return Engine(directory, config=EngineConfig(**(defaults | settings)))


def last_logits(engine: Engine, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Of each prompt, from its last token on through the output."""
    engine.runner = AllLogits(engine.model, engine.cache, engine.device)
    list(engine.generate(prompts, PARAMS))
    seen = [engine.runner.seen[i] for i in range(len(prompts))]
    return [
        torch.stack([logits for at, logits in sorted(of.items()) if at >= len(prompt) - 1])
        for prompt, of in zip(prompts, seen, strict=True)
    ]


@pytest.mark.parametrize("page_size", [4, 16])
@pytest.mark.parametrize("architecture", ["lfm2", "gemma2"])
def test_logits_are_those_without_sharing(tmp_path, architecture, page_size):
    """Convolution states, whole pages, partial pages and pages that have left a window, for shared
    prefixes of every length from 9 to 40."""
    write_checkpoint(tmp_path, architecture)
    chance = random.Random(page_size)
    prompts = []
    for length in range(9, 41):
        shared = [chance.randrange(8, VOCAB) for _ in range(length)]
        rests = ([chance.randrange(8, VOCAB) for _ in range(n)] for n in (1, 2, 7))
        prompts += [shared + rest for rest in rests]
    sharing, plain = (
        engine(tmp_path, page_size=page_size, max_batched_tokens=48, prefix_caching=on)
        for on in (True, False)
    )
    actual, expected = last_logits(sharing, prompts), last_logits(plain, prompts)
    # All but what was asked for before the engine had seen a second prompt with the prefix.
    assert sharing.stats.shared_tokens > 0.9 * 2 * sum(range(9, 41))
    assert plain.stats.shared_tokens == 0
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_an_engine_that_forgets_does_as_a_new_one(directory):
    """It computes and shares the same, so its log-probabilities are the same bits."""
    chance = random.Random(5)
    shared = [chance.randrange(8, VOCAB) for _ in range(60)]
    prompts = [[*shared, *(chance.randrange(8, VOCAB) for _ in range(9))] for _ in range(24)]
    params = SamplingParams(max_new_tokens=4, ignore_eos=True, logprobs=3)

    def run(used: Engine) -> tuple[int, list]:
        before = used.stats.shared_tokens
        logprobs = [output.logprobs for output in used.generate(prompts, params)]
        return used.stats.shared_tokens - before, logprobs

    used = engine(directory)
    new = run(used)
    assert run(used)[0] > new[0]
    used.forget()
    assert run(used) == new


def test_a_generator_closed_while_a_prefix_is_coming(directory):
    """Nothing waits for a founder that is gone."""
    shared = engine(directory, max_batched_tokens=8)
    prompts = [[*range(10, 90), 100 + i] for i in range(12)]
    outputs = shared.generate(prompts, SamplingParams(max_new_tokens=1, ignore_eos=True))
    steps = []

    def run_three_steps(schedule, step=shared.runner.step):
        steps.append(schedule)
        if len(steps) > 3:
            raise KeyboardInterrupt
        return step(schedule)

    shared.runner.step = run_three_steps
    with pytest.raises(KeyboardInterrupt):
        next(outputs)
    del shared.runner.step
    kept = snapshots(shared.prefixes)
    check_accounts(shared.cache, kept)
    expected = [
        output.token_ids
        for output in engine(directory, prefix_caching=False).generate(prompts, PARAMS)
    ]
    assert [output.token_ids for output in shared.generate(prompts, PARAMS)] == expected
    assert shared.stats.shared_tokens >= 11 * 80
    check_accounts(shared.cache, snapshots(shared.prefixes))


def test_prefixes_outlive_a_run(directory):
    shared = engine(directory)
    prompts = [[*range(10, 40), 100 + i] for i in range(4)]
    first = [output.token_ids for output in shared.generate(prompts, PARAMS)]
    assert shared.stats.shared_tokens == 3 * 30
    outputs = shared.generate(prompts, PARAMS)
    next(outputs)
    outputs.close()
    before = shared.stats.shared_tokens
    assert [output.token_ids for output in shared.generate(prompts, PARAMS)] == first
    assert shared.stats.shared_tokens - before == 4 * 30
    assert shared.cache.free_slots == 8
    check_accounts(shared.cache, snapshots(shared.prefixes))
