"""Log-probabilities are those of `transformers` on the same tokens, however requests share steps.

The oracle computes each whole sequence at once, without a cache; `log_softmax` of its logits, taken
in float64, is what every number here is compared with.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from checkpoints import ARCHITECTURES, VOCAB, oracle_logits, random_prompts, write_checkpoint
from transformers import PreTrainedModel

import hala_engine
from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.logprobs import log_probabilities, token_logprobs
from hala_engine.memory import plan_cache

SETTINGS = {
    "lfm2": {},
    "cohere2": {"logit_scale": 0.25, "shard_size": "60KB"},
    "gemma2": {"final_logit_softcapping": 4.0},
    "qwen2": {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2},
    "llama": {"tie_word_embeddings": True},
}
PROMPTS = random_prompts(10, seed=5)
NEW_TOKENS, LONG = 12, 60
TOLERANCE = 2e-4  # nats


@dataclass(frozen=True)
class Model:
    directory: Path
    oracle: PreTrainedModel

    def engine(self, **settings) -> Engine:
        config = EngineConfig(device="cpu", dtype="float32", **settings)
        return Engine(self.directory, config=config)

    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        """[len(tokens), vocab]: row i is of what follows token i."""
        return torch.log_softmax(oracle_logits(self.oracle, tokens).double(), dim=-1)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory) -> Model:
    directory = tmp_path_factory.mktemp(request.param)
    return Model(directory, write_checkpoint(directory, request.param, **SETTINGS[request.param]))


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory) -> Model:
    directory = tmp_path_factory.mktemp("lfm2")
    return Model(directory, write_checkpoint(directory))


@pytest.fixture
def few_pages(monkeypatch):
    """Room for one request of the longest length and a little more."""

    def plan(spec, *, page_size, chunk, **rest):
        planned = plan_cache(spec, page_size=page_size, chunk=chunk, **rest)
        longest = max(map(len, PROMPTS)) + LONG
        pages = spec.pages(longest, page_size, chunk) + 2 * len(spec.groups)
        return dataclasses.replace(planned, num_pages=pages)

    monkeypatch.setattr("hala_engine.engine.plan_cache", plan)


def close(actual: float, expected: torch.Tensor) -> bool:
    return math.isclose(actual, float(expected), rel_tol=0, abs_tol=TOLERANCE)


def params(**settings) -> SamplingParams:
    return SamplingParams(**{"max_new_tokens": NEW_TOKENS, "ignore_eos": True} | settings)


GREEDY = params(logprobs=5)
SAMPLED = params(logprobs=3, temperature=1.3, top_k=40, top_p=0.9, repetition_penalty=1.2)
BY_ID = params(logprob_token_ids=(9, 250, 11), temperature=0.7)
ONLY_DRAWN = params(logprobs=0)
PROMPT_TOO = params(logprobs=2, logprob_token_ids=(17,), prompt_logprobs=True)
NONE = params(temperature=0.9)
MIXED = [GREEDY, SAMPLED, NONE, BY_ID, ONLY_DRAWN, PROMPT_TOO, NONE, params(prompt_logprobs=True)]


def check_output(model: Model, prompt: list[int], asked: SamplingParams, output) -> None:
    """Everything that the request asked for, against the oracle; and nothing else."""
    expected = model.log_probabilities(prompt + output.token_ids)
    if asked.prompt_logprobs:
        first, *others = output.prompt_logprobs
        assert first is None and len(others) == len(prompt) - 1
        for i, logprob in enumerate(others):
            assert close(logprob, expected[i, prompt[i + 1]])
    else:
        assert output.prompt_logprobs is None
    if not asked.wants_logprobs:
        assert output.logprobs is None
        return
    assert [logprob.token_id for logprob in output.logprobs] == output.token_ids
    for logprob, row in zip(output.logprobs, expected[len(prompt) - 1 :], strict=False):
        assert close(logprob.logprob, row[logprob.token_id])
        check_top(logprob.top, row, asked)


def check_top(top: dict[int, float], row: torch.Tensor, asked: SamplingParams) -> None:
    count = min(asked.logprobs or 0, VOCAB)
    likeliest = list(top.values())[:count]
    assert likeliest == sorted(likeliest, reverse=True)
    best = row.topk(count).values
    assert all(close(a, b) for a, b in zip(likeliest, best, strict=True))
    assert list(top)[count:] == [i for i in asked.logprob_token_ids if i not in list(top)[:count]]
    assert all(close(value, row[token]) for token, value in top.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 32, "max_batched_tokens": 4096},
        {"max_batch_size": 6, "max_batched_tokens": 23, "page_size": 4},
        {"max_batch_size": 6, "deterministic": True},
    ],
    ids=["one_batch", "chunked", "deterministic"],
)
def test_every_kind_of_request_in_one_batch(model, settings):
    asked = [MIXED[i % len(MIXED)] for i in range(2 * len(PROMPTS))]
    prompts = PROMPTS * 2
    outputs = list(model.engine(**settings).generate(prompts, asked))
    for prompt, of_prompt, output in zip(prompts, asked, outputs, strict=True):
        assert len(output.token_ids) == NEW_TOKENS
        check_output(model, prompt, of_prompt, output)


@pytest.mark.parametrize("deterministic", [False, True])
def test_through_preemption(model, few_pages, deterministic):
    engine = model.engine(
        max_batch_size=8, max_batched_tokens=48, page_size=4, deterministic=deterministic
    )
    kinds = [dataclasses.replace(p, max_new_tokens=LONG) for p in (PROMPT_TOO, SAMPLED)]
    asked = [kinds[i % 2] for i in range(len(PROMPTS))]
    outputs = list(engine.generate(PROMPTS, asked))
    assert engine.stats.preemptions > 0
    for prompt, of_prompt, output in zip(PROMPTS, asked, outputs, strict=True):
        check_output(model, prompt, of_prompt, output)


def test_perplexity_of_prompts_is_that_of_a_forward_pass(model):
    engine = model.engine(max_batch_size=4, max_batched_tokens=29)
    scored = params(max_new_tokens=1, prompt_logprobs=True)
    # Each three times: a prompt that is scored must not leave out what another one computed.
    prompts = [prompt for prompt in PROMPTS if len(prompt) > 40 for _ in range(3)]
    for prompt, output in zip(prompts, engine.generate(prompts, scored), strict=True):
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            loss = model.oracle(tokens, labels=tokens, use_cache=False).loss
        ours = -sum(output.prompt_logprobs[1:]) / (len(prompt) - 1)
        assert math.exp(ours) == pytest.approx(math.exp(float(loss)), rel=1e-4)


def test_after_a_shared_prefix(model):
    shared = PROMPTS[-1][:30]
    prompts = [shared + prompt for prompt in PROMPTS]
    engine = model.engine(max_batch_size=5, max_batched_tokens=64)
    outputs = list(engine.generate(prompts, GREEDY))
    assert engine.stats.shared_tokens > 0
    for prompt, output in zip(prompts, outputs, strict=True):
        check_output(model, prompt, GREEDY, output)


def test_more_than_the_vocabulary_gives_all_of_it(lfm2):
    asked = params(max_new_tokens=2, logprobs=VOCAB + 50)
    [output] = lfm2.engine().generate([PROMPTS[-1]], asked)
    check_output(lfm2, PROMPTS[-1], asked, output)
    for logprob in output.logprobs:
        assert sorted(logprob.top) == list(range(VOCAB))
        assert sum(map(math.exp, logprob.top.values())) == pytest.approx(1, abs=1e-5)


def test_a_stop_token_has_no_place_in_the_list(lfm2):
    engine = lfm2.engine(prefix_caching=False)
    [free] = engine.generate([PROMPTS[-1]], GREEDY)
    stop = free.token_ids[4]
    at = free.token_ids.index(stop)
    asked = params(logprobs=5, stop_token_ids=(stop,))
    [output] = engine.generate([PROMPTS[-1]], asked)
    assert output.finish_reason == "stop" and output.token_ids == free.token_ids[:at]
    assert output.logprobs == free.logprobs[:at]


def test_a_stop_string_leaves_those_of_its_own_tokens(lfm2):
    """`token_ids` keeps the tokens that spell the stop string, so `logprobs` does."""
    engine = lfm2.engine(prefix_caching=False)
    [free] = engine.generate([PROMPTS[-1]], GREEDY)
    stop = free.text[4:6]
    asked = params(logprobs=5, stop=(stop,))
    [output] = engine.generate([PROMPTS[-1]], asked)
    assert stop not in output.text
    assert output.logprobs == free.logprobs[: len(output.token_ids)]
    check_output(lfm2, PROMPTS[-1], asked, output)


def test_a_prompt_of_one_token_has_no_score(lfm2):
    [output] = lfm2.engine().generate([[20]], params(prompt_logprobs=True))
    assert output.prompt_logprobs == [None]


def test_scores_of_a_long_prompt_are_taken_in_parts(lfm2, monkeypatch):
    monkeypatch.setattr("hala_engine.runner.SCORED_ROWS", 7)
    asked = params(max_new_tokens=1, prompt_logprobs=True)
    for prompt, output in zip(PROMPTS, lfm2.engine().generate(PROMPTS, asked), strict=True):
        check_output(lfm2, prompt, asked, output)


@pytest.mark.parametrize("ids", [(VOCAB,), (3, 10_000), (-1,)])
def test_an_id_outside_the_vocabulary_fails_its_own_request(lfm2, ids):
    asked = [params(logprob_token_ids=ids), GREEDY]
    bad, good = lfm2.engine().generate([PROMPTS[0], PROMPTS[1]], asked)
    assert bad.finish_reason == "error" and f"0..{VOCAB - 1}" in bad.error
    assert len(good.logprobs) == NEW_TOKENS


def test_nobody_asks_nothing_is_computed(lfm2, monkeypatch):
    def refuse(*_):
        raise AssertionError("log-probabilities were computed")

    monkeypatch.setattr("hala_engine.runner.log_probabilities", refuse)
    outputs = list(lfm2.engine().generate(PROMPTS, [NONE] * len(PROMPTS)))
    assert all(output.logprobs is None for output in outputs)


def test_scale_and_soft_cap_come_before_the_softmax():
    logits = torch.tensor([[4.0, -2.0, 0.0]])
    scores = 3 * torch.tanh(0.5 * logits.double() / 3)
    expected = scores - scores.exp().sum(1, keepdim=True).log()
    actual = log_probabilities(logits.bfloat16(), 0.5, 3.0)
    assert actual.dtype == torch.float32
    assert torch.allclose(actual.double(), expected, atol=1e-6)


def test_rows_may_ask_for_different_counts_and_ids():
    scores = torch.log_softmax(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]]), dim=1)
    first, second = token_logprobs(scores, [2, 1], [1, 0], [(0, 1), ()])
    assert (first.token_id, list(first.top)) == (2, [1, 0])
    assert first.logprob == float(scores[0, 2]) and first.top[0] == float(scores[0, 0])
    assert (second.logprob, second.top) == (float(scores[1, 1]), {})


def test_the_type_is_public():
    assert hala_engine.TokenLogprob(3, -0.5).top == {}
