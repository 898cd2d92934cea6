"""Requests on their way in: blocks, tokens, and what cannot be tokenized."""

from __future__ import annotations

import threading

import pytest
from checkpoints import write_checkpoint

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.errors import InputError
from hala_engine.intake import Intake

PARAMS = SamplingParams(max_new_tokens=2)


class Words:
    """A tokenizer that gives the lengths of words, and notes how it is asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.batches.append(texts)
        self.threads.add(threading.current_thread().name)
        return [[len(word) for word in text.split()] for text in texts]

    def apply_chat(self, messages: list[dict]) -> list[int]:
        if messages[0]["role"] == "nobody":
            raise InputError("nobody speaks")
        return [0, *(len(m["content"]) for m in messages)]


def requests(prompts, tokenizer, *, in_thread: bool, block: int = 3, params=None):
    params = iter([PARAMS] * 99 if params is None else params)
    intake = Intake(prompts, params, tokenizer, block=block, in_thread=in_thread)
    try:
        while found := intake.next_block():
            yield from found
    finally:
        intake.close()


@pytest.mark.parametrize("in_thread", [False, True])
def test_texts_of_a_block_are_tokenized_together(in_thread):
    tokenizer = Words()
    texts = ["a bb", "ccc", "dd d", "e", "f ff fff"]
    found = list(requests(texts, tokenizer, in_thread=in_thread))
    assert [(r.index, r.ids) for r in found] == [
        (i, [len(word) for word in text.split()]) for i, text in enumerate(texts)
    ]
    assert tokenizer.batches == [texts[:3], texts[3:]]
    mine = threading.current_thread().name
    assert (mine in tokenizer.threads) != in_thread


@pytest.mark.parametrize("in_thread", [False, True])
def test_kinds_of_prompts_keep_their_order_and_faults_stay_their_own(in_thread):
    chat, bad = [{"role": "user", "content": "hey"}], [{"role": "nobody", "content": "x"}]
    found = list(requests([[5, 6], "a bb", bad, chat, []], Words(), in_thread=in_thread, block=9))
    assert [r.ids for r in found] == [[5, 6], [1, 2], None, [0, 3], []]
    assert [r.error for r in found] == [None, None, "nobody speaks", None, None]


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_stream_is_pulled_in_the_callers_thread_a_block_at_a_time(in_thread):
    pulled, threads = [], set()

    def stream():
        for i in range(100):
            pulled.append(i)
            threads.add(threading.current_thread().name)
            yield [i]

    found = requests(stream(), None, in_thread=in_thread)
    next(found)
    assert len(pulled) == (6 if in_thread else 3)  # the next block is tokenized meanwhile
    assert threads == {threading.current_thread().name}
    found.close()


def test_without_a_tokenizer_prompts_are_token_ids():
    found = list(requests([[5], "text"], None, in_thread=False))
    assert found[0].ids == [5] and "token ids" in found[1].error


def test_too_few_params_are_said():
    with pytest.raises(ValueError, match="only 1 sampling params"):
        list(requests([[1], [2]], None, in_thread=False, params=[PARAMS]))


def test_a_prompt_that_its_template_refuses_stops_nothing(tmp_path):
    write_checkpoint(tmp_path)
    engine = Engine(tmp_path, config=EngineConfig(device="cpu", dtype="float32"))
    chat = [{"role": "user", "content": "hey"}]
    outputs = list(engine.generate([[9, 10], chat], PARAMS))
    assert outputs[0].error is None
    assert outputs[1].finish_reason == "error" and "no chat template" in outputs[1].error
