"""What a caller of Engine relies on: order, streams, stops, errors, sampling."""

from __future__ import annotations

import itertools

import pytest
from checkpoints import random_prompts, write_checkpoint

from hala_engine import Engine, EngineConfig, SamplingParams


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lfm2")
    write_checkpoint(directory)
    return directory


@pytest.fixture
def engine(directory):
    config = EngineConfig(device="cpu", dtype="float32", max_batch_size=8, max_batched_tokens=64)
    return Engine(directory, config=config)


def test_unordered_outputs_are_the_same_set(engine):
    prompts = random_prompts(20)
    lengths = [SamplingParams(max_new_tokens=1 + i % 9, ignore_eos=True) for i in range(20)]
    ordered = list(engine.generate(prompts, lengths))
    unordered = list(engine.generate(prompts, lengths, ordered=False))
    assert [output.index for output in ordered] == list(range(20))
    assert [output.index for output in unordered] != list(range(20))
    assert sorted(unordered, key=lambda output: output.index) == ordered


def test_an_endless_stream_is_pulled_lazily_and_can_be_closed(engine):
    pulled = itertools.count()
    stream = ([8 + next(pulled) % 50] for _ in itertools.repeat(None))
    outputs = engine.generate(stream, SamplingParams(max_new_tokens=4, ignore_eos=True))
    first = list(itertools.islice(outputs, 10))
    outputs.close()
    assert [output.index for output in first] == list(range(10))
    assert next(pulled) < 60
    assert engine.cache.free_slots == 8
    assert engine.cache.free_pages == engine.cache.num_pages
    assert len(list(engine.generate([[9], [10]], SamplingParams(max_new_tokens=2)))) == 2


def test_one_bad_prompt_stops_nothing(engine):
    prompts = [[9, 10], [], [11] * 600, [9, 999], [12]]
    outputs = list(engine.generate(prompts, SamplingParams(max_new_tokens=3, ignore_eos=True)))
    assert [output.finish_reason for output in outputs] == [
        "length",
        "error",
        "error",
        "error",
        "length",
    ]
    assert "no tokens" in outputs[1].error
    assert "600 tokens" in outputs[2].error and "512" in outputs[2].error
    assert "token id" in outputs[3].error


def test_the_context_bounds_the_output(engine):
    output = next(engine.generate([[9] * 508], SamplingParams(max_new_tokens=50, ignore_eos=True)))
    assert len(output.token_ids) == 4
    assert output.finish_reason == "length"


def test_stop_ids_and_eos_end_the_output(engine, directory):
    prompt = random_prompts(6)[-1]
    free = next(engine.generate([prompt], SamplingParams(max_new_tokens=12, ignore_eos=True)))
    stop_id = free.token_ids[5]
    first = free.token_ids.index(stop_id)
    params = SamplingParams(max_new_tokens=12, stop_token_ids=(stop_id,), ignore_eos=True)
    stopped = next(engine.generate([prompt], params))
    assert stopped.token_ids == free.token_ids[:first]
    assert stopped.finish_reason == "stop"
    assert engine._stop_ids == {7}


def test_a_stop_string_cuts_the_text_before_it(engine):
    prompt = random_prompts(6)[-1]
    free = next(engine.generate([prompt], SamplingParams(max_new_tokens=12, ignore_eos=True)))
    stop = free.text[4:6]
    at = free.text.index(stop)
    params = SamplingParams(max_new_tokens=12, stop=("never", stop), ignore_eos=True)
    stopped = next(engine.generate([prompt], params))
    assert stopped.text == free.text[:at]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < 12


def test_seeded_sampling_does_not_depend_on_the_batch(engine):
    prompts = random_prompts(12)
    params = [
        SamplingParams(max_new_tokens=10, temperature=0.9, top_p=0.95, seed=i, ignore_eos=True)
        for i in range(12)
    ]
    together = [output.token_ids for output in engine.generate(prompts, params)]
    alone = [
        next(engine.generate([prompt], p)).token_ids
        for prompt, p in zip(prompts, params, strict=True)
    ]
    assert together == alone
    other = SamplingParams(max_new_tokens=10, temperature=0.9, seed=100, ignore_eos=True)
    assert next(engine.generate([prompts[0]], other)).token_ids != together[0]


def test_repetition_penalty_applies_to_prompt_and_output(engine):
    params = SamplingParams(max_new_tokens=40, repetition_penalty=1e6, ignore_eos=True)
    prompt = [20, 21, 22]
    output = next(engine.generate([prompt], params))
    assert len(set(prompt + output.token_ids)) == len(prompt) + 40


def test_greedy_rows_are_unchanged_by_sampled_neighbours(engine):
    prompts = random_prompts(6)
    greedy = SamplingParams(max_new_tokens=8, ignore_eos=True)
    sampled = SamplingParams(max_new_tokens=8, temperature=1.5, ignore_eos=True)
    expected = [output.token_ids for output in engine.generate(prompts, greedy)]
    mixed = list(engine.generate(prompts, [greedy, sampled] * 3))
    assert [output.token_ids for output in mixed][::2] == expected[::2]


def test_a_second_generate_at_the_same_time_is_refused(engine):
    params = SamplingParams(max_new_tokens=4, ignore_eos=True)
    first = engine.generate([[9], [10]], params)
    next(first)
    with pytest.raises(RuntimeError, match="already generating"):
        next(engine.generate([[11]], params))
    assert len(list(first)) == 1


def test_fewer_params_than_prompts_is_an_error(engine):
    with pytest.raises(ValueError, match="only 1 sampling params"):
        list(engine.generate([[9], [10]], [SamplingParams(max_new_tokens=2)]))
    assert engine.cache.free_slots == 8


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 1},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"stop": ("",)},
    ],
)
def test_sampling_params_refuse_bad_values(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingParams(**values)


def test_a_hub_id_is_downloaded_through_huggingface_hub(directory, monkeypatch):
    asked = {}

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    engine = Engine("LiquidAI/LFM2-350M", revision="v1", config=EngineConfig(device="cpu"))
    assert (asked["repo"], asked["revision"]) == ("LiquidAI/LFM2-350M", "v1")
    assert "*.safetensors" in asked["patterns"]
    assert engine.model_path == directory
