"""Sample answers: those of the exported model, with training left as it was."""

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hala_trainer import samples
from hala_trainer.errors import TrainError
from hala_trainer.samples import sample

CHATS = [[{"role": "user", "content": text}] for text in ("abc", "say ééé", "cab")]
EXPECTED = ["ABC", "ÉÉÉ", "CAB"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, init_dir) -> Path:
    from transformers import AutoConfig

    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(init_dir))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)  # so that answers differ
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def answer(folder, tmp_path):
    """Samples of `step` on the CPU; what `sample` returned."""

    def run(step: int, chats=CHATS, expected=EXPECTED, model=folder, tokens: int = 6):
        return sample(model, chats, expected, tokens, "cpu", step, tmp_path / "samples.jsonl")

    return run


def rows(tmp_path) -> list[dict]:
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_each_prompt_is_answered_greedily_through_its_chat_template(
    answer, folder, tmp_path, monkeypatch
):
    # The model's own arithmetic, so that no near tie is decided by rounding.
    config = samples.EngineConfig
    monkeypatch.setattr(samples, "EngineConfig", lambda **k: config(dtype="float32", **k))
    first = answer(3)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = []
    for messages, expected in zip(CHATS, EXPECTED, strict=True):
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        out = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        text = tokenizer.decode(out, skip_special_tokens=True).rstrip("\ufffd")
        wanted.append({"step": 3, "messages": messages, "expected": expected, "answer": text})
    assert rows(tmp_path) == wanted
    assert first == wanted[0]
    assert len({row["answer"] for row in wanted}) > 1


def test_rows_of_later_evaluations_follow(answer, tmp_path):
    answer(2)
    answer(4, CHATS[:1], EXPECTED[:1])
    assert [row["step"] for row in rows(tmp_path)] == [2, 2, 2, 4]


def test_a_resumed_run_replaces_the_rows_it_makes_again(answer, tmp_path):
    for step in (2, 4, 6):
        answer(step, CHATS[:1], EXPECTED[:1])
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 8, "mess')  # killed in the middle of a line
    answer(4, CHATS[:1], EXPECTED[:1])
    assert [row["step"] for row in rows(tmp_path)] == [2, 4]


def test_text_is_written_as_it_is_read(answer, tmp_path):
    answer(1)
    assert "say ééé" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")


def test_a_prompt_longer_than_the_context_has_no_answer_and_stops_no_other(answer, tmp_path):
    long = [{"role": "user", "content": "x" * 500}]
    answer(1, [long, CHATS[0]], ["", ""])
    found = rows(tmp_path)
    assert found[0]["answer"] is None
    assert found[1]["answer"] is not None


def test_no_prompts_no_rows(answer, tmp_path):
    assert answer(1, [], []) is None
    assert rows(tmp_path) == []


def test_random_states_threads_and_gradients_are_left_as_they_were(answer, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # the engine then sets its own number
    before, state = torch.get_num_threads(), torch.get_rng_state()
    engine = samples.Engine

    def drawing(*arguments, **options):
        torch.rand(3)
        return engine(*arguments, **options)

    monkeypatch.setattr(samples, "Engine", drawing)
    torch.set_num_threads(7)
    try:
        answer(1, CHATS[:1], EXPECTED[:1])
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_nothing_of_the_engine_is_left_in_memory(answer, monkeypatch):
    alive: list[weakref.ref] = []
    engine = samples.Engine

    def watched(*arguments, **options):
        made = engine(*arguments, **options)
        alive.extend(weakref.ref(part) for part in (made, made.model, made.cache))
        return made

    monkeypatch.setattr(samples, "Engine", watched)
    gc.disable()  # what sample leaves to the collector would stay
    try:
        answer(1)
        assert len(alive) == 3
        assert [ref() for ref in alive] == [None] * 3
    finally:
        gc.enable()


def test_a_model_that_the_engine_cannot_load_is_one_line_with_the_step(answer, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match=r"^no samples of step 5: .*has no config.json"):
        answer(5, model=tmp_path / "empty")


def test_too_little_memory_is_one_line_with_the_step(answer, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(samples, "Engine", full)
    with pytest.raises(
        TrainError, match=r"^no samples of step 5: CUDA out of memory. Tried to allocate 2 GiB.\Z"
    ):
        answer(5)


def test_a_file_that_cannot_be_written_is_one_line(answer, tmp_path):
    (tmp_path / "samples.jsonl").mkdir()
    with pytest.raises(TrainError, match=r"samples.jsonl: cannot write \(Is a directory\)$"):
        answer(1, CHATS[:1], EXPECTED[:1])
