"""What is learnt is the answer and its end of turn, and prompts are encoded as an engine would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from hala_trainer.data.chat import ChatRenderer
from hala_trainer.errors import InputError
from tests.trainer.conftest import CHATML, tiny_tokenizer

# As Gemma2's: roles user and model, contents trimmed, no system turn, strictly in turns.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# As LFM2's: the system turn is taken out first, and left out when it is empty.
LFM2 = (
    "{{- bos_token -}}{%- set ns = namespace(system='') -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set ns.system = messages[0]['content'] -%}{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- if ns.system -%}{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n' -}}{%- endif -%}"
) + CHATML.removeprefix("{{- bos_token -}}")
# As templates of reasoning models: what an answer thought is gone once another turn follows.
FORGETFUL = CHATML.replace(
    "m['content']", "(m['content'] if loop.last else m['content'].split('</think>')[-1])"
)

TALK = [
    {"role": "user", "content": "abc?"},
    {"role": "assistant", "content": "abc abc"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "a b"},
]


def talk(*contents: str, system: str | None = None) -> list[dict]:
    """User and assistant in turns."""
    said = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system is not None else said


def tokenizer_with(template: str):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def gemma():
    return tokenizer_with(GEMMA)


@pytest.fixture(scope="module")
def lfm2():
    return tokenizer_with(LFM2)


@pytest.fixture(scope="module")
def forgetful():
    return tokenizer_with(FORGETFUL)


def encode(tokenizer, messages):
    encoded = ChatRenderer(tokenizer).encode([("here", messages)])
    return encoded.ids.tolist(), encoded.supervised.tolist()


def learnt_text(tokenizer, messages) -> list[str]:
    """The stretches of supervised tokens, decoded."""
    ids, learnt = encode(tokenizer, messages)
    edges = np.flatnonzero(np.diff([0, *map(int, learnt), 0])).reshape(-1, 2)
    return [tokenizer.decode(ids[start:stop]) for start, stop in edges]


def test_answers_and_their_end_of_turn_are_learnt_and_nothing_else(tokenizer):
    assert learnt_text(tokenizer, TALK) == ["abc abc<|im_end|>", "a b<|im_end|>"]


def test_a_system_turn_and_a_last_user_turn_are_not_learnt(tokenizer):
    messages = talk("abc?", "ab", "unanswered", system="be brief")
    assert learnt_text(tokenizer, messages) == ["ab<|im_end|>"]
    text = tokenizer.decode(encode(tokenizer, messages)[0])
    assert "be brief" in text
    assert "unanswered" not in text


def test_an_empty_answer_teaches_the_end_of_turn(tokenizer):
    assert learnt_text(tokenizer, talk("abc?", "")) == ["<|im_end|>"]


def test_an_answer_that_speaks_of_the_end_of_turn_is_learnt_whole(tokenizer):
    said = "write <|im_end|> at the end"
    assert learnt_text(tokenizer, talk("how?", said)) == [f"{said}<|im_end|>"]


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


def test_the_token_that_begins_a_text_is_the_templates_alone():
    tokenizer = tiny_tokenizer()
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", special_tokens=[bos]
    )
    ids, _ = encode(tokenizer, TALK)
    assert ids.count(tokenizer.bos_token_id) == 1
    tokenizer.chat_template = CHATML.replace("{{- bos_token -}}", "")
    assert tokenizer.bos_token_id not in encode(tokenizer, TALK)[0]


def test_truncation_and_padding_of_the_tokenizer_are_put_aside():
    tokenizer = tiny_tokenizer()
    whole = encode(tokenizer, TALK)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=100)
    assert encode(tokenizer, TALK) == whole


def test_gemma_turns(gemma):
    assert learnt_text(gemma, talk("abc?", " ab\n", "more", "b")) == [
        "ab<end_of_turn>",
        "b<end_of_turn>",
    ]
    ids, _ = encode(gemma, talk("abc?", "ab"))
    assert ids.count(gemma.bos_token_id) == 1
    assert "<start_of_turn>model" in gemma.decode(ids)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (talk("a", "b", system="s"), "there: refused by the chat template (System role not"),
        ([*talk("a", "b"), *talk("a", "b")[1:]], "there: refused by the chat template (Conv"),
        ([TALK[1]], "there: refused by the chat template"),
    ],
)
def test_a_conversation_that_the_template_refuses_is_named(gemma, messages, said):
    with pytest.raises(InputError) as caught:
        ChatRenderer(gemma).encode([("here", TALK), ("there", messages)])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opening_assistant_turn_is_learnt_where_the_template_has_one(tokenizer):
    assert learnt_text(tokenizer, [TALK[1], *TALK]) == [
        "abc abc<|im_end|>",
        "abc abc<|im_end|>",
        "a b<|im_end|>",
    ]


def test_a_template_that_hides_the_answer_is_refused():
    tokenizer = tokenizer_with(
        "{{- messages | length -}}{%- if add_generation_prompt -%}>{%- endif -%}"
    )
    with pytest.raises(InputError, match="here: the chat template does not render"):
        encode(tokenizer, TALK[:2])


def test_turns_that_change_once_another_follows_are_refused(forgetful):
    thoughtful = talk("abc?", "hm</think>ab", "more", "b")
    with pytest.raises(InputError, match="here: the chat template renders an earlier turn"):
        encode(forgetful, thoughtful)
    assert learnt_text(forgetful, thoughtful[:2]) == ["hm</think>ab<|im_end|>"]
    assert len(learnt_text(forgetful, TALK)) == 2


def test_text_that_is_no_unicode_is_named(tokenizer):
    with pytest.raises(InputError, match="there: text with half a surrogate pair"):
        ChatRenderer(tokenizer).encode([("here", TALK), ("there", talk("a", "b\ud800"))])


def test_no_rows_are_no_tokens(tokenizer):
    encoded = ChatRenderer(tokenizer).encode([])
    assert len(encoded.ids) == len(encoded.supervised) == len(encoded.lengths) == 0


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        ChatRenderer(tokenizer)


CONTENT = st.lists(st.sampled_from([*"ab \n?\ue000\ue0010é", "<|im_end|>"]), max_size=6).map(
    "".join
)
CONVERSATION = st.builds(
    lambda turns, system: talk(*(c for turn in turns for c in turn), system=system),
    st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3),
    st.none() | CONTENT,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CONVERSATION, min_size=1, max_size=4))
@pytest.mark.parametrize("template", ["lfm2", "gemma", "forgetful"])
def test_known_cuts_are_those_made_by_hand(lfm2, gemma, forgetful, template, conversations):
    renderer = ChatRenderer({"lfm2": lfm2, "gemma": gemma, "forgetful": forgetful}[template])
    if template == "gemma":
        conversations = [c for c in conversations if c[0]["role"] != "system"]
    rows = [("here", messages) for messages in conversations]
    assert renderer.split(rows) == [renderer.cut_by_hand(*row) for row in rows]


@pytest.mark.parametrize("template", ["lfm2", "gemma"])
def test_an_order_of_roles_is_cut_by_hand_once(lfm2, gemma, template, monkeypatch):
    renderer = ChatRenderer(lfm2 if template == "lfm2" else gemma)
    by_hand, calls = renderer.cut_by_hand, []
    monkeypatch.setattr(renderer, "cut_by_hand", lambda *a: calls.append(a) or by_hand(*a))
    renderer.split([("here", talk("abc? ", f" {i}", "more", "b\n")) for i in range(20)])
    renderer.split([("here", talk("abc?", f"{i}", "more", "b", "unanswered")) for i in range(20)])
    assert len(calls) == 1


def test_the_fingerprint_follows_template_and_special_tokens(tokenizer):
    def fingerprint(**changes) -> bytes:
        changed = tiny_tokenizer()
        for name, value in changes.items():
            setattr(changed, name, value)
        return ChatRenderer(changed).fingerprint()

    assert fingerprint() == ChatRenderer(tokenizer).fingerprint()
    assert fingerprint(chat_template=CHATML + " ") != fingerprint()
    assert fingerprint(bos_token="<|endoftext|>") != fingerprint()
