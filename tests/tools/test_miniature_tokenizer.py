"""The tokenizer gives back any text, and its prompt is short."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_tools.miniature.corpus import build_corpus
from hala_tools.miniature.tokenizer import (
    SPECIAL,
    VOCAB_SIZE,
    build_tokenizer,
    sample_lines,
    save_tokenizer,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pairs = [(s.en, s.ar) for s in build_corpus(3_000).train]
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(sample_lines(pairs, 0)), path, 256)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


HARD = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \t\r\n<>0x41|_▁aبّ ")), max_size=60
)


@settings(deadline=None, max_examples=300)
@given(text=HARD)
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert 3 not in ids  # never the unknown token


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces  ",
        "tab\there",
        "a\r\nb\n\n",
        "😀👩‍👩‍👧",
        "<0x41>",
        "▁x",
        "كِتاب ـ ١٢",
        "\u2028",
    ],
)
def test_hard_texts_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_ids_are_pinned(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(8))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 7)
    assert len(tokenizer) <= VOCAB_SIZE


def test_chat_template_renders_the_prompt(tokenizer):
    message = {"role": "user", "content": "Translate from English to Arabic: Hi."}
    text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|startoftext|><|im_start|>user\nTranslate from English to Arabic: Hi.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_prompt_words_are_whole_pieces(tokenizer):
    tokens = tokenizer.tokenize("user\nTranslate from English to Arabic:")
    assert tokens == ["user", "\n", "Translate", " from", " English", " to", " Arabic", ":"]


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    pairs = [(s.en, s.ar) for s in build_corpus(3_000).train]
    save_tokenizer(build_tokenizer(sample_lines(pairs, 0)), tmp_path, 256)
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
