"""From a pair of texts to the judge's prompt, and to the tokens that stand for the two verdicts."""

import re
from collections.abc import Sequence
from typing import Protocol

from hala_engine.errors import InputError
from hala_engine.rows.characters import whole_characters

_PLACES = re.compile(r"(\{source\}|\{target\})")


class JudgeTokenizer(Protocol):
    """What this module needs of `Engine.tokenizer`."""

    has_chat_template: bool

    def encode(self, text: str) -> list[int]: ...

    def apply_chat(self, messages: Sequence[dict]) -> list[int]: ...

    def render_chat(self, messages: Sequence[dict]) -> str: ...


class PairPrompter:
    """Builds the prompts of one job, as a chat or as plain text.

    verdict_ids: the tokens whose log-probabilities after a prompt are compared, accept's and
    reject's: the first of each word, in the prompt's context. Raises InputError when they are the
    same token.
    """

    def __init__(
        self,
        tokenizer: JudgeTokenizer,
        template: str,
        verdicts: tuple[str, str],
        *,
        use_chat: bool = True,
    ):
        self._tokenizer = tokenizer
        self._parts = _PLACES.split(template)
        self._chat = use_chat and tokenizer.has_chat_template
        self.verdict_ids, self._joined = self._find_verdicts(verdicts)

    def ids(self, source: str, target: str) -> list[int]:
        """Token ids of the prompt about a pair."""
        content = self._content(source, target)
        if self._chat:
            ids = self._tokenizer.apply_chat(_message(content))
        else:
            ids = self._tokenizer.encode(content)
        return ids[: len(ids) - self._joined]

    def _content(self, source: str, target: str) -> str:
        texts = {"{source}": source, "{target}": target}
        content = "".join([texts.get(part, part) for part in self._parts])
        if not self._chat and not content[-1].isspace():
            content += " "  # before the verdict
        return whole_characters(content)

    def _find_verdicts(self, verdicts: tuple[str, str]) -> tuple[tuple[int, int], int]:
        """The verdicts' tokens, and how many at the prompt's end become others when a verdict
        follows: most tokenizers join a word with the space before it."""
        prompt = self._content("text", "text")
        if self._chat:
            prompt = self._tokenizer.render_chat(_message(prompt))
        before = self._tokenizer.encode(prompt)
        answered = [self._tokenizer.encode(prompt + verdict) for verdict in verdicts]
        kept = min(_common(before, ids) for ids in answered)
        accept, reject = (ids[kept] for ids in answered)
        if accept == reject:
            raise InputError(
                f"--verdicts {','.join(verdicts)}: both begin with the same token of this model; "
                "give other words, such as yes,no"
            )
        return (accept, reject), len(before) - kept


def _message(content: str) -> list[dict]:
    return [{"role": "user", "content": content}]


def _common(a: list[int], b: list[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
