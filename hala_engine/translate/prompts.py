"""From a piece of text to the model's prompt, as token ids."""

from collections.abc import Sequence
from typing import Protocol

from hala_engine.errors import InputError
from hala_engine.rows.characters import whole_characters
from hala_engine.translate.languages import language_name

# The prompts of the Hala pipeline: its teacher's, and that of the translator it released.
PRESETS = {
    "teacher": "Translate from {source} to {target}: {text}",
    "hala": "Translate everything that follows into {target}:\n\n{text}",
}


class ChatTokenizer(Protocol):
    """What this module needs of `Engine.tokenizer`."""

    has_chat_template: bool

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def apply_chat(self, messages: list[dict]) -> list[int]: ...


def resolve_template(prompt: str, source: str, target: str) -> str:
    """The template with languages filled in and one `{text}` left: `prompt` is a preset or one.

    A template's other braces are left alone, so that it may hold JSON or LaTeX.
    """
    if prompt in PRESETS:
        template = PRESETS[prompt]
        for field, code in (("{source}", source), ("{target}", target)):
            if field not in template:
                continue
            name = language_name(code)
            if name is None:
                raise InputError(
                    f"no name is known for the language {code!r}; "
                    f'give the whole prompt: --prompt "Translate into ...: {{text}}"'
                )
            template = template.replace(field, name)
        return template
    if prompt.count("{text}") != 1:
        raise InputError(
            f"--prompt {prompt!r} must hold {{text}} once, or be a preset: {', '.join(PRESETS)}"
        )
    return prompt


class Prompter:
    """Builds prompts for one job: template, system message, chat template or plain text."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        template: str,
        *,
        system: str | None = None,
        use_chat: bool = True,
    ):
        self._tokenizer = tokenizer
        self._before, self._after = template.split("{text}")
        self._system = system
        self._chat = use_chat and tokenizer.has_chat_template
        if system is not None and not self._chat:
            why = "with --no-chat-template" if not use_chat else "this model has none"
            raise InputError(
                f"--system needs a chat template ({why}); put it into --prompt instead"
            )
        self._specials = len(tokenizer.encode(""))
        self.overhead = len(self.ids(""))
        """Tokens of a prompt that are not its text."""

    def ids(self, text: str) -> list[int]:
        """Token ids of the whole prompt around `text`."""
        content = whole_characters(self._before + text + self._after)
        if not self._chat:
            return self._tokenizer.encode(content)
        messages = [{"role": "user", "content": content}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        return self._tokenizer.apply_chat(messages)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself."""
        clean = [whole_characters(text) for text in texts]
        return [len(ids) - self._specials for ids in self._tokenizer.encode_batch(clean)]
