"""One text on its way through the job: masked, cut into pieces, translated, joined.

A piece is first as large as the context allows, because a model translates better what it sees as
a whole. If its answer lost a mark of masked text, or the structure (lines, list items, table
cells), the piece is cut finer and asked for again: line by line with each line's markup copied,
then between the masked spans and the signs within a line. So masks and structure survive a weak
model; a strong one is asked once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from hala_engine.jobs.answers import Answer
from hala_engine.translate.line_pieces import inner_parts, line_pieces
from hala_engine.translate.masking import (
    HOLE,
    Masked,
    read_marks,
    unmask,
    with_marks,
    without_marks,
)
from hala_engine.translate.segment import Piece
from hala_engine.translate.structure import same_structure, with_line_ends_of

_FINER = (line_pieces, inner_parts)


class Translation(NamedTuple):
    """A finished text. `source` and `with_holes`: for the checks, both without masked spans."""

    text: str
    source: str
    with_holes: str
    truncated: bool
    placeholder_lost: bool
    structure_lost: bool


@dataclass(slots=True)
class _Part:
    """A piece of the text. `question` None: it is copied. `order`: for each hole of `result`, which
    of the holes of `text` it is. `spoilt`: its structure is another and it can be cut no finer."""

    text: str
    question: str | None
    level: int = 0
    result: str | None = None
    order: list[int] | None = None
    truncated: bool = False
    spoilt: bool = False


class Document:
    """The state of one text. `error`: why it has no translation."""

    __slots__ = ("_masked", "_parts", "error", "output_tokens", "prompt_tokens", "questions")

    def __init__(self, masked: Masked, pieces: list[Piece]):
        self._masked = masked
        self._parts = [_part(piece, 0) for piece in pieces]
        self.questions = _open_questions(self._parts)
        """What the model is to be asked now, each once; empty when the text is finished."""
        self.error: str | None = None
        self.prompt_tokens = self.output_tokens = 0

    def settle(self, answer_to: Callable[[str], Answer]) -> None:
        """Take the answers to all of `questions`; there may then be others, about finer pieces."""
        for question in self.questions:
            answer = answer_to(question)
            self.prompt_tokens += answer.prompt_tokens
            self.output_tokens += answer.output_tokens
            if answer.error is not None:
                self.error, self.questions = answer.error, []
                return
        parts = []
        for part in self._parts:
            if part.question is None or part.result is not None:
                parts.append(part)
            else:
                parts += _settled(part, answer_to(part.question))
        self._parts = parts
        self.questions = _open_questions(parts)

    def translation(self) -> Translation:
        """Of a finished text."""
        source, spans = self._masked
        if len(self._parts) == 1 and not spans:  # as most are
            [part] = self._parts
            text = part.text if part.result is None else part.result
            is_lost = text == "" or (part.spoilt and not same_structure(source, text))
            return Translation(text, source, text, part.truncated, False, is_lost)
        truncated = is_spoilt = is_blank = False
        texts, order, holes, asked = [], [], 0, 0
        for part in self._parts:
            truncated |= part.truncated
            is_spoilt |= part.spoilt
            is_blank |= part.result == ""
            asked += part.result is not None
            texts.append(part.text if part.result is None else part.result)
            count = part.text.count(HOLE)
            local = range(count) if part.order is None else part.order
            order += [holes + index for index in local]
            holes += count
        with_holes = "".join(texts)
        # Each of several pieces may be right by itself and yet not fit the others.
        is_sure = asked <= 1 and not is_spoilt
        return Translation(
            text=unmask(with_holes, [spans[index] for index in order]),
            source=source,
            with_holes=with_holes,
            truncated=truncated,
            placeholder_lost=sorted(order) != list(range(len(spans))),
            structure_lost=is_blank or not (is_sure or same_structure(source, with_holes)),
        )


def _open_questions(parts: list[_Part]) -> list[str]:
    found = {part.question: None for part in parts if part.result is None}
    found.pop(None, None)
    return list(found)


def _part(piece: Piece, level: int) -> _Part:
    return _Part(piece.text, with_marks(piece.text) if piece.translate else None, level)


def _settled(part: _Part, answer: Answer) -> list[_Part]:
    """The part with its result, or finer parts in its place."""
    read = read_marks(answer.text, part.text.count(HOLE))
    is_same = read is not None and same_structure(part.text, read[0])
    if not is_same:
        for level in range(part.level, len(_FINER)):
            pieces = _FINER[level](part.text)
            if [piece.text for piece in pieces if piece.translate] != [part.text]:
                return [_part(piece, level + 1) for piece in pieces]
    text, part.order = read or (without_marks(answer.text).strip(), [])
    part.result = with_line_ends_of(part.text, text)
    part.truncated = answer.finish_reason == "length"
    part.spoilt = not is_same
    return [part]
