"""Text to token ids and back: a Hugging Face tokenizer, its chat template, and a detokenizer that
gives text as tokens come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hala_engine.errors import InputError

if TYPE_CHECKING:
    import jinja2

REPLACEMENT = "\ufffd"


class Tokenizer:
    """The tokenizer of a model directory: `tokenizer.json` through `tokenizers`, other forms
    through `transformers`. Raises InputError when there is none."""

    def __init__(self, directory: Path) -> None:
        import tokenizers

        if (directory / "tokenizer.json").exists():
            try:
                self._backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
            except Exception as error:  # tokenizers raises nothing narrower
                raise InputError(
                    f"{directory / 'tokenizer.json'} cannot be read: {error}"
                ) from None
        else:
            self._backend = _converted(directory)
        self._backend.no_padding()
        self._backend.no_truncation()
        added = self._backend.get_added_tokens_decoder().values()
        self._special_texts = [token.content for token in added if token.special]
        config = _optional_json(directory / "tokenizer_config.json")
        self._special = {
            name: token["content"] if isinstance(token, dict) else token
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (token := config.get(name))
        }
        source = _template_source(directory, config)
        self._template = _compile_template(source, directory) if source else None

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @property
    def eos_id(self) -> int | None:
        eos = self._special.get("eos_token")
        return None if eos is None else self._backend.token_to_id(eos)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the tokenizer adds by itself."""
        return self._backend.encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def render_chat(self, messages: Sequence[dict]) -> str:
        """The chat template's text for `messages`, up to where the answer begins."""
        if self._template is None:
            raise InputError("this model's tokenizer has no chat template")
        import jinja2

        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=True, **self._special
            )
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template refuses these messages: {error}") from None

    def apply_chat(self, messages: Sequence[dict]) -> list[int]:
        """Ids of `render_chat`: the template writes every special token itself.

        A message that spells a special token, `<|im_end|>` say, is data: it is read as characters,
        so that it cannot end its own turn.
        """
        texts = [m["content"] for m in messages if isinstance(m.get("content"), str)]
        if any(special in text for text in texts for special in self._special_texts):
            return self._apply_chat_literally(messages)
        return self._backend.encode(self.render_chat(messages), add_special_tokens=False).ids

    def _apply_chat_literally(self, messages: Sequence[dict]) -> list[int]:
        """The template around placeholders, and the contents encoded apart, in their places."""
        content: dict[str, str] = {}
        framed = []
        for i, message in enumerate(messages):
            if isinstance(message.get("content"), str):
                holder = f"\ue000{i}\ue001"
                content[holder] = message["content"]
                message = message | {"content": holder}
            framed.append(message)
        ids: list[int] = []
        for part in re.split("(\ue000\\d+\ue001)", self.render_chat(framed)):
            self._backend.encode_special_tokens = part in content
            text = content.get(part, part)
            ids += self._backend.encode(text, add_special_tokens=False).ids
        self._backend.encode_special_tokens = False
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each."""
        return self._backend.decode_batch([list(ids) for ids in sequences])

    def token_text(self, token_id: int) -> str:
        """Of a token by itself, special ones too."""
        return self._backend.decode([token_id], skip_special_tokens=False)

    def detokenizer(self) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(self.decode)


class IncrementalDetokenizer:
    """Gives the text of a growing list of tokens piece by piece; the pieces join to the whole.

    A token's text can depend on those before it (leading spaces) and a character can span tokens
    (byte fallback). So the text of a short window is decoded with and without the new token, and
    nothing is given while the end is an unfinished UTF-8 character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0  # first id of the window
        self._given = 0  # ids before this have been given as text

    def push(self, token_id: int) -> str:
        """The text that this token completes; often one token's, "" inside a character."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._window : self._given])
        after = self._decode(self._ids[self._window :])
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._window, self._given = self._given, len(self._ids)
        return after[len(before) :]


def trim_unfinished_character(text: str) -> str:
    """Text of tokens that were cut off by a length limit, without a half-written character."""
    return text.rstrip(REPLACEMENT)


def _optional_json(path: Path) -> dict:
    from hala_engine.weights.directory import read_json

    return read_json(path) if path.exists() else {}


def _converted(directory: Path):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory).backend_tokenizer
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{directory} has no tokenizer that can be read: {reason}") from None


def _template_source(directory: Path, config: dict) -> str | None:
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = next((t["template"] for t in template if t["name"] == "default"), None)
    return template


def _compile_template(source: str, directory: Path) -> jinja2.Template:
    """With the environment that Hugging Face templates are written for."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}` marks the assistant's tokens for training; here it has no effect."""

        tags = {"generation"}  # noqa: RUF012 - the name and form that jinja2 reads

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the chat template in {directory} is not valid: {error}") from None
