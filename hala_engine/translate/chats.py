"""The texts of a chat, and the chat again with other texts in their places.

A chat is a list of messages, each {role, content} or ShareGPT's {from, value}. Content is text, or
a list of parts of which some hold `text`, or null (a message that only calls tools). Everything
else in a message is kept as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

_NAMES = (("role", "content"), ("from", "value"))


class NoChat(ValueError):
    """The value is no chat; says why."""


def chat_texts(chat: Any, copied_roles: Sequence[str]) -> list[str]:
    """The texts to translate, in order. Raises NoChat."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _mapped(chat, copied_roles, note)
    return found


def with_chat_texts(chat: Any, copied_roles: Sequence[str], texts: Sequence[str]) -> list[dict]:
    """The chat with `texts` in the places where `chat_texts` found some."""
    rest = iter(texts)
    return _mapped(chat, copied_roles, lambda _: next(rest))


def _mapped(chat: Any, copied_roles: Sequence[str], change: Callable[[str], str]) -> list[dict]:
    if not isinstance(chat, list):
        raise NoChat(f"not a list of messages but {type(chat).__name__}")
    return [_mapped_message(message, copied_roles, change) for message in chat]


def _mapped_message(
    message: Any, copied_roles: Sequence[str], change: Callable[[str], str]
) -> dict:
    if not isinstance(message, dict):
        raise NoChat(f"a message is no object but {type(message).__name__}")
    names = next((pair for pair in _NAMES if isinstance(message.get(pair[0]), str)), None)
    if names is None:
        raise NoChat("a message needs a role (or from) that is text")
    role_name, content_name = names
    if message[role_name] in copied_roles:
        return message
    content = message.get(content_name)
    if isinstance(content, str):
        return message | {content_name: change(content)}
    if isinstance(content, list):
        return message | {content_name: [_mapped_part(part, change) for part in content]}
    if content is not None:
        raise NoChat(f"the content of a message is {type(content).__name__}, not text")
    return message


def _mapped_part(part: Any, change: Callable[[str], str]) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return part | {"text": change(part["text"])}
    return part
