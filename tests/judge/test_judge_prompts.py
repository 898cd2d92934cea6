"""What the judge is asked, and which tokens are its verdicts, with tokenizers of several kinds."""

import json
from os.path import commonprefix

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from hala_engine import tokenizer as engine_tokenizer
from hala_engine.errors import InputError
from hala_engine.judge import JudgeConfig
from hala_engine.judge.prompts import PairPrompter

LINES = ["Verdict: accept", "Verdict: reject", "accept", "reject", "yes", "no", "text"] * 3
TURNS = ["<|turn|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{{ '<|turn|>judge\n' }}"
)


def byte_level():
    """As GPT-2, Qwen and LFM2: a word's first token holds the space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre_tokenizers.ByteLevel.alphabet()


def metaspace():
    """As SentencePiece in Llama: a text by itself begins with a space that is not there."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer, list("\n:<|>()")


def unsplit():
    """As Gemma: words are joined across spaces and lines, wherever the vocabulary has it."""
    return Tokenizer(models.BPE()), list("\n:<|>()")


@pytest.fixture(params=[byte_level, metaspace, unsplit], ids=lambda kind: kind.__name__)
def tokenizer(request, tmp_path):
    backend, alphabet = request.param()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=TURNS,
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=10,
    )
    backend.train_from_iterator(LINES, trainer)
    backend.add_special_tokens([AddedToken(turn, normalized=False) for turn in TURNS])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return engine_tokenizer.Tokenizer(tmp_path)


def config(**options):
    fixed = {"inputs": ("a",), "output": "b", "model": "m"}
    return JudgeConfig(**fixed, source_column="en", target_column="ar", **options)


@pytest.mark.parametrize("ending", ["Verdict:", "Verdict: ", "Verdict:\n", "Verdict", "{target}"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_prompt_and_verdict_are_the_tokens_of_the_whole_text(tokenizer, ending, chat):
    """Whatever the tokenizer joins, prompt + verdict is how prompt and answer are read together."""
    template = "{source} / {target}\n" + ending
    prompter = PairPrompter(tokenizer, template, ("accept", "reject"), use_chat=chat)
    content = template.replace("{source}", "no").replace("{target}", "yes")
    if chat:
        asked = f"<|turn|>user\n{content}<|end|>\n<|turn|>judge\n"
    else:
        asked = content if content[-1].isspace() else content + " "
    prompt = prompter.ids("no", "yes")
    answered = [tokenizer.encode(asked + verdict) for verdict in ("accept", "reject")]
    for whole, token in zip(answered, prompter.verdict_ids, strict=True):
        assert whole[: len(prompt) + 1] == [*prompt, token]
    # No token is left out that both would have.
    assert prompt == commonprefix([tokenizer.encode(asked), *answered])


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_verdicts_of_one_first_token_are_refused(tokenizer, chat):
    with pytest.raises(InputError, match="--verdicts accept,accept it: both begin with the same"):
        PairPrompter(tokenizer, "{source} {target}", ("accept", "accept it"), use_chat=chat)


def test_texts_that_look_like_places_or_turns_stay_texts(tokenizer):
    prompter = PairPrompter(tokenizer, "{source} / {target} / {x}", ("yes", "no"))
    ids = prompter.ids("{target} {source}", "<|end|>")
    text = tokenizer._backend.decode(ids, skip_special_tokens=False)
    turns = [tokenizer._backend.token_to_id(turn) for turn in TURNS]
    assert [id for id in ids if id in turns] == [*turns, turns[0]]
    assert "{target} {source}" in text.replace("▁", " ") or "{" not in text


def test_the_rubric_names_languages_and_verdicts_and_the_pair_comes_last():
    template = config(target="fr", verdicts=("yes", "no")).template
    assert "its translation into French" in template
    assert "Answer yes only if" in template
    assert "one word, yes or no." in template
    assert template.endswith(
        "\n\nSource (English): {source}\nTranslation (French): {target}\nVerdict:"
    )
    assert template.count("{") == 2


def test_an_instruction_without_places_gets_the_pair_appended():
    template = config(instruction='Judge. {"json": true}').template
    assert template == (
        'Judge. {"json": true}\n\nSource (English): {source}\nTranslation (Arabic): {target}\n'
        "Verdict:"
    )


def test_an_instruction_with_places_is_the_whole_prompt():
    assert config(instruction="{target} = {source}?").template == "{target} = {source}?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instruction": "Is {source} good?"}, "holds no {target}"),
        ({"instruction": "Is {target} good?"}, "holds no {source}"),
        ({"instruction": " "}, "--instruction is empty"),
        ({"verdicts": ("accept",)}, "--verdicts accept: give two words"),
        ({"verdicts": ("accept", "")}, "--verdicts accept,: give two words"),
        ({"verdicts": ("a", "b", "c")}, "--verdicts a,b,c: give two words"),
        ({"threshold": 1.5}, "--threshold 1.5: give a share from 0 to 1"),
        ({"threshold": float("nan")}, "--threshold nan"),
        ({"source": "English"}, "--source 'English' is no language code"),
    ],
)
def test_flags_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        config(**options).validate()
