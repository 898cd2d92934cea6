"""Greedy tokens are those of `transformers`, however requests share steps, pages and prefixes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from checkpoints import (
    ARCHITECTURES,
    VOCAB,
    greedy,
    oracle_logits,
    random_prompts,
    write_checkpoint,
)
from configurations import ROPES
from transformers import PreTrainedModel

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.memory import plan_cache

NEW_TOKENS = 20

SETTINGS = {
    "lfm2": {},
    "cohere2": {"shard_size": "60KB"},
    "gemma2": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2},
    "llama": {"rope_parameters": ROPES["llama3"], "shard_size": "60KB"},
}

WINDOWED = ("cohere2", "gemma2", "qwen2")


@dataclass(frozen=True)
class Model:
    directory: Path
    oracle: PreTrainedModel

    def engine(self, **settings) -> Engine:
        config = EngineConfig(device="cpu", dtype="float32", **settings)
        return Engine(self.directory, config=config)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory) -> Model:
    directory = tmp_path_factory.mktemp(request.param)
    oracle = write_checkpoint(directory, request.param, **SETTINGS[request.param])
    return Model(directory, oracle)


def families(*lengths: int, each: int = 6) -> list[list[int]]:
    """Prompts that begin alike, in turns: `each` for every length of a common prefix."""
    generator = torch.Generator().manual_seed(sum(lengths))

    def tokens(n: int) -> list[int]:
        return torch.randint(8, VOCAB, (n,), generator=generator).tolist()

    shared = [tokens(n) for n in lengths]
    return [prefix + tokens(1 + 7 * i) for i in range(each) for prefix in shared]


PROMPTS = families(11, 29, 53) + random_prompts(14, seed=3)


def run(engine: Engine, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    outputs = list(engine.generate(prompts, params))
    assert [output.prompt_tokens for output in outputs] == [len(prompt) for prompt in prompts]
    return [output.token_ids for output in outputs]


def assert_greedy(model: Model, prompts: list[list[int]], outputs: list[list[int]]) -> None:
    """Each token is the likeliest one after those before it: then the whole is greedy."""
    for prompt, output in zip(prompts, outputs, strict=True):
        logits = oracle_logits(model.oracle, prompt + output[:-1])
        assert output == logits[len(prompt) - 1 :].argmax(1).tolist()


def assert_all_is_free(engine: Engine) -> None:
    engine.prefixes.clear()
    assert engine.cache.free_pages == engine.cache.num_pages
    assert engine.cache.free_slots == engine.config.max_batch_size


LONG_OUTPUTS = families(11, 21, each=8) + random_prompts(8, seed=3, longest=30)
"""Short prompts, whose sequences outgrow the pages that they were admitted with."""


@pytest.fixture
def few_pages(monkeypatch):
    """Room for two of the longest requests."""

    def plan(spec, *, page_size, chunk, **rest):
        longest = max(map(len, LONG_OUTPUTS)) + 3 * NEW_TOKENS
        pages = 2 * spec.pages(longest, page_size, chunk)
        planned = plan_cache(spec, page_size=page_size, chunk=chunk, **rest)
        return dataclasses.replace(planned, num_pages=pages, max_model_len=longest)

    monkeypatch.setattr("hala_engine.engine.plan_cache", plan)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 64, "max_batched_tokens": 4096},
        {"max_batch_size": 7, "max_batched_tokens": 31, "page_size": 8},
        {"max_batch_size": 5, "max_batched_tokens": 64, "page_size": 2},
    ],
    ids=["one_batch", "chunked", "tiny_pages"],
)
def test_tokens_in_mixed_batches_with_shared_prefixes(model, settings):
    engine = model.engine(**settings)
    assert_greedy(model, PROMPTS, run(engine, PROMPTS))
    # Of the 6 of a family one computes the prefix, and one may come before a second is seen.
    assert engine.stats.shared_tokens >= 4 * (11 + 29 + 53)
    assert engine.stats.cache_use > 0
    assert_all_is_free(engine)
    assert_greedy(model, PROMPTS[:6], run(engine, PROMPTS[:6]))


def test_tokens_without_prefix_caching(model):
    engine = model.engine(max_batch_size=16, max_batched_tokens=50, prefix_caching=False)
    assert_greedy(model, PROMPTS, run(engine, PROMPTS))
    assert engine.stats.shared_tokens == 0
    assert engine.stats.cache_use == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_tokens_with_forced_preemption(model, deterministic, few_pages):
    engine = model.engine(
        max_batch_size=16, max_batched_tokens=16, page_size=4, deterministic=deterministic
    )
    outputs = run(engine, LONG_OUTPUTS, 3 * NEW_TOKENS)
    assert_greedy(model, LONG_OUTPUTS, outputs)
    assert engine.stats.preemptions > 0
    assert deterministic or engine.stats.shared_tokens > 0
    assert_all_is_free(engine)


def test_tokens_in_deterministic_mode_with_shared_prefixes(model):
    # That mode shares whole chunks of 256 tokens only.
    prompts = families(261, 290, each=4) + PROMPTS
    engine = model.engine(max_batch_size=16, page_size=8, deterministic=True)
    assert_greedy(model, prompts, run(engine, prompts))
    assert engine.stats.shared_tokens >= 2 * 2 * 256
    assert_all_is_free(engine)


def test_generate_of_transformers_gives_these_tokens(model):
    """With its own caches, as users call it."""
    prompts = PROMPTS[12:20]
    engine = model.engine(max_batch_size=3, max_batched_tokens=31, page_size=8)
    assert run(engine, prompts) == [greedy(model.oracle, p, NEW_TOKENS) for p in prompts]


@pytest.mark.parametrize("model", WINDOWED, indirect=True)
def test_pages_that_left_the_window_are_free_while_a_long_output_is_decoded(model, monkeypatch):
    engine = model.engine(max_batch_size=8, max_batched_tokens=32, page_size=8)
    spec, held = engine.cache.spec, []
    step = engine.runner.step

    def watched(schedule):
        held.append(engine.cache.num_pages - engine.cache.free_pages)
        return step(schedule)

    monkeypatch.setattr(engine.runner, "step", watched)
    (prompt,) = random_prompts(5, seed=1)[4:]
    new_tokens = 260
    assert_greedy(model, [prompt], run(engine, [prompt], new_tokens))
    length = len(prompt) + new_tokens
    full = len(spec.groups) * engine.cache.pages_for(length)
    # Once decoding, a window of w tokens lies in at most ceil((w - 1) / 8) + 1 pages.
    windows = [group.window for group in spec.groups]
    least = sum(
        engine.cache.pages_for(length) if w is None else engine.cache.pages_for(w - 1) + 1
        for w in windows
    )
    assert any(windows) and least < full
    assert max(held) <= spec.pages(length, 8, 32)
    assert max(held[-50:]) <= least
    assert_all_is_free(engine)
