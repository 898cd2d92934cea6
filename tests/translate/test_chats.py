import copy

import pytest

from hala_engine.translate.chats import NoChat, chat_texts, with_chat_texts

ROLES = ("tool",)
CHATS = {
    "role and content": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
        {"role": "tool", "content": '{"rain": true}'},
        {"role": "assistant", "content": "It rains."},
    ],
    "from and value": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    "both, as one table makes of two": [
        {"role": None, "content": None, "from": "human", "value": "Hi"},
        {"role": "user", "content": "Hello", "from": None, "value": None},
    ],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look"}, {"type": "image", "url": "a.png"}, "odd"],
        }
    ],
    "empty": [],
}
TEXTS = {
    "role and content": ["Be kind.", "Hi", "It rains."],
    "from and value": ["Hi", "Hello"],
    "both, as one table makes of two": ["Hi", "Hello"],
    "parts": ["Look"],
    "empty": [],
}


@pytest.mark.parametrize("name", CHATS)
def test_texts_of_a_chat_and_the_same_chat_with_others(name):
    chat, before = CHATS[name], copy.deepcopy(CHATS[name])
    texts = chat_texts(chat, ROLES)
    assert texts == TEXTS[name]
    assert with_chat_texts(chat, ROLES, texts) == chat
    changed = with_chat_texts(chat, ROLES, [text + "!" for text in texts])
    assert chat_texts(changed, ROLES) == [text + "!" for text in texts]
    assert chat == before


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "not a list of messages but str"),
        ({"role": ["user"]}, "not a list of messages but dict"),
        (["text"], "a message is no object but str"),
        ([{"content": "no role"}], "needs a role"),
        ([{"role": 1, "content": "x"}], "needs a role"),
        ([{"role": "user", "content": 5}], "content of a message is int"),
    ],
)
def test_what_is_no_chat_says_why(value, reason):
    with pytest.raises(NoChat, match=reason):
        chat_texts(value, ROLES)
