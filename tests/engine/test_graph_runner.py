"""Steps in padded buckets, a step ahead of the host, as on a GPU but without graphs: the same
outputs as when each step is taken in before the next."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from checkpoints import random_prompts, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.buckets import PROMPT_TOKENS, Bucket, Inputs, decode_sizes
from hala_engine.graph_runner import CAPTURED_ON_USE_BESIDE, GraphRunner
from hala_engine.memory import plan_cache

PROMPTS = random_prompts(10, seed=4, longest=70)
TEMPLATE = random_prompts(5, seed=2, longest=60)[-1][:23]
PROMPTS += [TEMPLATE + rest for rest in random_prompts(5, seed=7, longest=12)]


def params_of(kind: str, index: int) -> SamplingParams:
    length = 3 + 5 * (index % 5)
    if kind == "greedy":
        return SamplingParams(max_new_tokens=length, ignore_eos=True)
    if kind == "stops":
        return SamplingParams(max_new_tokens=40, stop_token_ids=tuple(range(index % 3, 64, 9)))
    if kind == "text":
        return SamplingParams(max_new_tokens=40, stop=("e", "th"))
    if kind == "sampled":
        return SamplingParams(
            max_new_tokens=length, temperature=0.9, top_k=20, top_p=0.9, min_p=0.01, seed=index
        )
    if kind == "penalised":
        return SamplingParams(max_new_tokens=length, repetition_penalty=1.3, ignore_eos=True)
    return SamplingParams(max_new_tokens=length, logprobs=2, prompt_logprobs=index % 2 == 0)


KINDS = ("greedy", "stops", "text", "sampled", "penalised", "scored")


@pytest.fixture(scope="module", params=["lfm2", "gemma2"])
def directory(tmp_path_factory, request):
    directory = tmp_path_factory.mktemp(request.param)
    write_checkpoint(directory, request.param)
    return directory


def ahead(engine: Engine) -> Engine:
    engine.runner = GraphRunner(engine.model, engine.cache, engine.device, captures=False)
    return engine


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=len(PROMPTS), max_size=len(PROMPTS)),
    batch=st.sampled_from([1, 3, 7, 20]),
    budget=st.sampled_from([5, 19, 64, 4096]),
    pages=st.sampled_from([None, 34]),
    deterministic=st.booleans(),
)
def test_outputs_are_those_of_a_step_at_a_time(
    directory, kinds, batch, budget, pages, deterministic
):
    def few_pages(*args, **options):
        plan = plan_cache(*args, **options)
        return dataclasses.replace(plan, num_pages=pages) if pages else plan

    config = EngineConfig(
        device="cpu",
        dtype="float32",
        max_batch_size=batch,
        max_batched_tokens=budget,
        max_model_len=120,
        page_size=8,
        deterministic=deterministic,
    )
    params = [params_of(kind, i) for i, kind in enumerate(kinds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hala_engine.engine.plan_cache", few_pages)
        expected, engine = Engine(directory, config=config), ahead(Engine(directory, config=config))
    for ours, theirs in zip(
        engine.generate(PROMPTS, params), expected.generate(PROMPTS, params), strict=True
    ):
        exact = {"logprobs": None, "prompt_logprobs": None}
        assert dataclasses.replace(ours, **exact) == dataclasses.replace(theirs, **exact)
        for mine, other in zip(ours.logprobs or (), theirs.logprobs or (), strict=True):
            assert mine.token_id == other.token_id
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert ours.prompt_logprobs == pytest.approx(theirs.prompt_logprobs, abs=1e-4)
    assert engine.cache.free_slots == batch


def test_a_step_is_started_before_the_one_before_is_known(directory):
    config = EngineConfig(device="cpu", dtype="float32", max_batch_size=4)
    engine = ahead(Engine(directory, config=config))
    events = []
    start = engine.runner.start

    def watched(schedule):
        number = sum(kind == "start" for kind, _ in events)
        events.append(("start", number))
        wait = start(schedule)

        def waiting():
            events.append(("wait", number))
            return wait()

        return waiting

    engine.runner.start = watched
    list(engine.generate(PROMPTS[:3], SamplingParams(max_new_tokens=6, ignore_eos=True)))
    steps = sum(kind == "start" for kind, _ in events)
    assert steps == 6  # and none for a sequence whose end is known
    assert events[:4] == [("start", 0), ("start", 1), ("wait", 0), ("start", 2)]
    assert events[-1] == ("wait", 5)


def test_closing_the_outputs_waits_for_the_step_in_flight(directory):
    engine = ahead(Engine(directory, config=EngineConfig(device="cpu", max_batch_size=4)))
    outputs = engine.generate(PROMPTS, SamplingParams(max_new_tokens=6, ignore_eos=True))
    next(outputs)
    outputs.close()
    assert engine.cache.free_slots == 4
    assert len(list(engine.generate(PROMPTS, SamplingParams(max_new_tokens=2)))) == len(PROMPTS)


@pytest.mark.parametrize("most", [1, 3, 16, 100, 256, 500])
def test_every_number_of_decodes_has_a_bucket_that_wastes_little(most):
    sizes = decode_sizes(most)
    assert sizes[-1] == most and list(sizes) == sorted(set(sizes))
    for count in range(1, most + 1):
        size = min(s for s in sizes if s >= count)
        assert size <= max(2 * count, count + 15) if count < 128 else size <= count + 31


@pytest.mark.parametrize("groups", [0, 1, 5])
def test_a_buckets_inputs_fill_their_buffer_without_overlap(groups):
    bucket = Bucket(decodes=5, tokens=PROMPT_TOKENS[0], prompts=9, pages=32, greedy=False)
    buffer = torch.zeros(Inputs.size(bucket, groups), dtype=torch.int64)
    inputs = Inputs.within(buffer, bucket, groups)
    for field in dataclasses.fields(inputs):
        part = getattr(inputs, field.name)
        assert (part == 0).all(), f"{field.name} overlaps another"
        part.fill_(1)
    written = buffer != 0
    # The probabilities take half of each int64 row of theirs.
    assert written.sum() >= len(buffer) - 3 * bucket.sequences / 2 - 2


def test_a_step_takes_a_larger_graph_until_its_own_size_has_been_wanted_often(directory):
    engine = ahead(Engine(directory, config=EngineConfig(device="cpu", max_batch_size=64)))
    runner = engine.runner

    def decodes(count: int, **other) -> Bucket:
        return Bucket(count, **({"tokens": 0, "prompts": 0, "pages": 32, "greedy": True} | other))

    runner._graphs = dict.fromkeys(
        [
            decodes(64),
            decodes(32),
            decodes(32, pages=128),
            decodes(32, greedy=False),
            decodes(64, tokens=256, prompts=65),
        ]
    )
    assert runner._chosen(decodes(64)) == decodes(64)
    assert runner._chosen(decodes(16)) == decodes(32)
    assert runner._chosen(decodes(48, pages=128)) == decodes(48, pages=128)
    assert runner._chosen(decodes(16, pages=128)) == decodes(32, pages=128)
    assert runner._chosen(decodes(16, greedy=False)) == decodes(32, greedy=False)
    small = decodes(64, tokens=64, prompts=65)
    assert runner._chosen(small) == decodes(64, tokens=256, prompts=65)
    for _ in range(CAPTURED_ON_USE_BESIDE - 2):
        assert runner._chosen(decodes(16)) == decodes(32)
    assert runner._chosen(decodes(16)) == decodes(16)
