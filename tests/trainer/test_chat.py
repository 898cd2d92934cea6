"""What is learnt is the answer and its end of turn, and prompts are encoded as an engine would."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hala_trainer.chat import ChatRenderer
from hala_trainer.dataset import load_documents
from hala_trainer.errors import InputError

TALK = [
    {"role": "user", "content": "abc?"},
    {"role": "assistant", "content": "abc abc"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "a b"},
]


def encode(tokenizer, messages):
    (pair,) = ChatRenderer(tokenizer).encode([("here", messages)])
    return pair


def test_answers_and_their_end_of_turn_are_learnt_and_nothing_else(tokenizer):
    ids, learnt = encode(tokenizer, TALK)
    spans, current = [], []
    for token, flag in zip(ids, learnt, strict=True):
        if flag:
            current.append(token)
        elif current:
            spans.append(tokenizer.decode(current))
            current = []
    spans.append(tokenizer.decode(current))
    assert spans == ["abc abc<|im_end|>", "a b<|im_end|>"]


def test_the_prompt_is_encoded_as_at_inference(tokenizer):
    answer = {"role": "assistant", "content": "ac"}
    ids, learnt = encode(tokenizer, [TALK[0], answer])
    prompt = tokenizer.apply_chat_template(TALK[:1], add_generation_prompt=True, tokenize=False)
    want = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids[: learnt.index(True)] == want
    # Encoding the whole would merge the prompt's line break with the answer's first letter.
    whole = tokenizer(prompt + "ac<|im_end|>", add_special_tokens=False)["input_ids"]
    assert whole != ids
    assert tokenizer.decode(whole) == tokenizer.decode(ids)


def test_a_template_that_hides_the_answer_is_refused(tokenizer):
    before = tokenizer.chat_template
    tokenizer.chat_template = (
        "{{- messages | length -}}{%- if add_generation_prompt -%}>{%- endif -%}"
    )
    try:
        with pytest.raises(InputError, match="here: the chat template does not render"):
            encode(tokenizer, TALK[:2])
    finally:
        tokenizer.chat_template = before


def test_jsonl_parquet_messages_and_prompt_response_agree(tokenizer, tmp_path):
    plain = {"prompt": "abc?", "response": "abc abc"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK[:2]}) + "\n\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(plain) + "\n")
    pq.write_table(pa.Table.from_pylist([plain]), tmp_path / "c.parquet")
    loaded = [
        load_documents(tmp_path / name, tokenizer, tmp_path / "cache")
        for name in ("a.jsonl", "b.jsonl", "c.parquet")
    ]
    for docs in loaded:
        assert docs.ids.dtype == np.uint16
        np.testing.assert_array_equal(docs.ids, loaded[0].ids)
        np.testing.assert_array_equal(docs.supervised, loaded[0].supervised)


def test_the_cache_is_used_and_follows_the_content(tokenizer, tmp_path, monkeypatch):
    rows, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    rows.write_text(json.dumps({"messages": TALK}) + "\n")
    first = load_documents(rows, tokenizer, cache)
    with monkeypatch.context() as patched:
        patched.setattr(ChatRenderer, "encode", None)  # a second look must not tokenise
        again = load_documents(rows, tokenizer, cache)
    np.testing.assert_array_equal(first.ids, again.ids)
    rows.write_text(json.dumps({"messages": TALK[:2]}) + "\n")
    assert len(load_documents(rows, tokenizer, cache).ids) < len(first.ids)
