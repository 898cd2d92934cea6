"""Conversations -> token ids, with the assistant's tokens marked.

The template is rendered to text, never to tokens: for each assistant turn, the rendering of what
came before it *with* the generation prompt must be a string prefix of the rendering that includes
the turn, and what follows that prefix is the answer. Prompt and answer are then encoded apart, so
the boundary between them falls exactly between two tokens, and the prompt's tokens are the very
ones that an engine feeds when it is asked to continue the same conversation. (Encoding the whole
and mapping characters back to tokens would let a merge straddle the boundary.) What the template
writes is all there is: the tokenizer adds no special token of its own to it.

An answer ends with its end-of-turn token, which is learnt; what the template writes after it (a
line break, as a rule) belongs to the next prompt and is not.

That takes two renderings per assistant turn, each as long as the conversation so far. Where the
roles come in an order that was met before, one will do: the cuts of that order are known from a
conversation of placeholders, and when putting the contents in their places gives the very text
that the template renders, they hold for this conversation too. When not, it is cut by hand.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import jinja2
import numpy as np

from hala_trainer.data.rows import Message, Row
from hala_trainer.errors import InputError

END_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|eot_id|>")
# The place of a message's content: private-use characters, which no template strips or reads.
PLACEHOLDER = "\ue000{}\ue001"
PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")

Piece = tuple[str, bool]  # text, is it learnt


@dataclass(frozen=True)
class Encoded:
    """Rows one after another."""

    ids: np.ndarray  # uint16 or uint32 [tokens]
    supervised: np.ndarray  # bool [tokens]
    lengths: np.ndarray  # int64 [rows]


@dataclass(frozen=True)
class Cuts:
    """How conversations of one order of roles are cut."""

    pieces: list[tuple[list[str | int], bool]]  # literal text, or which message's content
    tail: str  # after the last answer; not learnt, not kept

    def fill(self, contents: list[str], rendered: str) -> list[Piece] | None:
        """The pieces of `rendered`, unless they would not add up to it."""
        filled = [
            ("".join(contents[p] if isinstance(p, int) else p for p in parts), learnt)
            for parts, learnt in self.pieces
        ]
        whole = "".join(text for text, _ in filled) + self.tail
        return filled if whole == rendered else None


class ChatRenderer:
    """Renders and encodes conversations with a Hugging Face tokenizer.

    Raises InputError when it has no chat template or no fast tokenizer behind it.
    """

    def __init__(self, tokenizer):
        name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise InputError(f"{name}: the tokenizer has no chat template")
        self.backend = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise InputError(f"{name}: needs a fast tokenizer (a tokenizer.json)")
        self.backend.no_truncation()
        self.backend.no_padding()
        self.tokenizer = tokenizer
        self.template = tokenizer.get_chat_template()
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        known = tokenizer.get_vocab()
        ends = [t for t in (*END_OF_TURN, tokenizer.eos_token) if t and t in known]
        self.ends = [end for end in ends if end in self.template] or ends
        self._cuts_of = lru_cache(maxsize=4096)(self._find_cuts)

    def fingerprint(self) -> bytes:
        """Of all that token ids depend on besides the rows."""
        special = sorted(self.tokenizer.special_tokens_map.items())
        text = f"{self.backend.to_str()}{self.template}{special}{END_OF_TURN}"
        return hashlib.sha256(text.encode()).digest()

    def encode(self, rows: list[Row]) -> Encoded:
        """Token ids and supervision marks; all pieces go through the tokenizer at once."""
        pieces = self.split(rows)
        flat = [text for row in pieces for text, _ in row]
        try:
            encodings = self.backend.encode_batch_fast(flat, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise InputError(f"{_not_unicode(rows)}: text with half a surrogate pair") from None
        ids = [encoding.ids for encoding in encodings]
        sizes = np.fromiter(map(len, ids), np.int64, len(ids))
        total = int(sizes.sum())
        learnt = np.fromiter((learnt for row in pieces for _, learnt in row), bool, len(ids))
        starts = np.cumsum([0, *(len(row) for row in pieces)])[:-1]
        return Encoded(
            ids=np.fromiter(chain.from_iterable(ids), self.dtype, total),
            supervised=np.repeat(learnt, sizes),
            lengths=np.add.reduceat(sizes, starts),
        )

    def split(self, rows: list[Row]) -> list[list[Piece]]:
        """Cut every row into its pieces, by known cuts where they hold."""
        rows = [(place, _up_to_last_answer(messages)) for place, messages in rows]
        rendered = self._render_all([messages for _, messages in rows])
        if rendered is None:  # one of them is refused: say which
            return [self.cut_by_hand(place, messages) for place, messages in rows]
        out = []
        for (place, messages), text in zip(rows, rendered, strict=True):
            pieces = None
            if all(len(message) == 2 for message in messages):
                cuts = self._cuts_of(tuple(message["role"] for message in messages))
                contents = [message["content"] for message in messages]
                # As it is, or as templates that trim write it.
                pieces = cuts and (
                    cuts.fill(contents, text) or cuts.fill([c.strip() for c in contents], text)
                )
            out.append(pieces or self.cut_by_hand(place, messages))
        return out

    def cut_by_hand(self, place: str, messages: list[Message]) -> list[Piece]:
        """Cut one conversation by rendering it up to and with each of its answers."""
        pieces: list[Piece] = []
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(place, messages[:i], generation_prompt=True)
            whole = self._render(place, messages[: i + 1], generation_prompt=False)
            if not whole.startswith(prompt):
                raise InputError(
                    f"{place}: the chat template does not render an assistant turn as its "
                    "generation prompt followed by the answer, so the answer cannot be told apart"
                )
            if not prompt.startswith(done):
                raise InputError(
                    f"{place}: the chat template renders an earlier turn in another way once a "
                    "later one follows, so they cannot be learnt together; make one row of each"
                )
            answer = whole[len(prompt) :]
            end = max((answer.rfind(e) + len(e) for e in self.ends if e in answer), default=0)
            answer = answer[: end or None]
            pieces += [(prompt[len(done) :], False), (answer, True)]
            done = prompt + answer
        return pieces

    def _find_cuts(self, roles: tuple[str, ...]) -> Cuts | None:
        marked = [{"role": r, "content": PLACEHOLDER.format(i)} for i, r in enumerate(roles)]
        try:
            cut = self.cut_by_hand("", marked)
            whole = self._render("", marked, generation_prompt=False)
        except InputError:
            return None
        done = sum(len(text) for text, _ in cut)
        pieces = []
        for text, learnt in cut:
            parts = PLACEHOLDERS.split(text)  # text, number, text, number, ..., text
            pieces.append(([int(p) if n % 2 else p for n, p in enumerate(parts)], learnt))
        return Cuts(pieces, whole[done:])

    def _render(self, place: str, messages: list[Message], generation_prompt: bool) -> str:
        try:  # as a list of one: only so may there be no messages, before an opening assistant turn
            (text,) = self.tokenizer.apply_chat_template(
                [messages], tokenize=False, add_generation_prompt=generation_prompt
            )
            return text
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InputError(f"{place}: refused by the chat template ({error})") from None

    def _render_all(self, conversations: list[list[Message]]) -> list[str] | None:
        try:
            return self.tokenizer.apply_chat_template(conversations, tokenize=False)
        except (jinja2.TemplateError, TypeError, ValueError):
            return None


def _up_to_last_answer(messages: list[Message]) -> list[Message]:
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return messages[: last + 1]


def _not_unicode(rows: list[Row]) -> str:
    for place, messages in rows:
        for message in messages:
            try:
                str(message["content"]).encode()
            except UnicodeEncodeError:
                return place
    return rows[0][0]
