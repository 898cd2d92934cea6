"""From a row to the model's prompt, as token ids."""

from typing import Any

from hala_engine.completions.config import CompletionsConfig
from hala_engine.errors import InputError
from hala_engine.rows.characters import whole_characters
from hala_engine.translate.prompts import ChatTokenizer

_ROLES = {"human": "user", "gpt": "assistant"}
"""Of ShareGPT's {from, value}; others are the same there."""


class Prompter:
    """Builds the prompts of one job. Raises InputError when the tokenizer has no chat template and
    the job needs one."""

    def __init__(self, config: CompletionsConfig, tokenizer: ChatTokenizer):
        if config.uses_template and not tokenizer.has_chat_template:
            flag = "--messages-column" if config.is_messages else "--chat"
            raise InputError(
                f"{flag}: the tokenizer of {config.model} has no chat template; "
                "prompt with plain text, by --prompt-column alone"
            )
        self._config, self._tokenizer = config, tokenizer

    def ids(self, row: dict) -> list[int]:
        """Raises InputError, with the reason, for a row that has no prompt."""
        config = self._config
        if config.column not in row:
            raise InputError(f"no column {config.column!r} in this row")
        value = row[config.column]
        if config.is_messages:
            return self._chat_ids(_messages(value))
        if not isinstance(value, str):
            raise InputError(f"not text but {_kind(value)}")
        if not value:
            raise InputError("the prompt is empty")
        text = whole_characters(value)
        if config.chat:
            return self._chat_ids([{"role": "user", "content": text}])
        return self._tokenizer.encode(text)

    def _chat_ids(self, messages: list[dict]) -> list[int]:
        system = self._config.system
        if system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        return self._tokenizer.apply_chat(messages)


def _messages(value: Any) -> list[dict]:
    if not isinstance(value, list):
        raise InputError(f"not a list of messages but {_kind(value)}")
    if not value:
        raise InputError("the list of messages is empty")
    return [_message(message) for message in value]


def _message(message: Any) -> dict:
    """In the form of chat templates, from {role, content} or {from, value}."""
    if not isinstance(message, dict):
        raise InputError(f"a message is no object but {_kind(message)}")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise InputError("a message needs a role and content that are text")
    return {"role": _ROLES.get(role, role), "content": whole_characters(content)}


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
