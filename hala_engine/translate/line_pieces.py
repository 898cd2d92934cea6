"""Cutting a text so finely that its markup cannot be lost: line by line, and within a line.

Both functions return pieces whose texts, joined, are the input, character for character. What
a line is marked up with (indentation, quote signs, list markers, task boxes, heading signs,
table pipes, emphasis round the whole line) is copied; the words between are translated.
"""

import re
import string
from collections.abc import Iterable, Iterator

from hala_engine.translate.masking import HOLE
from hala_engine.translate.possessive import compile_possessive
from hala_engine.translate.segment import Piece, has_letter
from hala_engine.translate.structure import ROLE

# Left-to-right, right-to-left and Arabic letter marks, embeddings, overrides and isolates of a
# direction, zero-width space, byte order mark.
_MARKS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff"
_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + _MARKS

_ENDS = r"\n\r\x0b\x0c\x85\u2028\u2029"
_LINE = re.compile(rf"([^{_ENDS}]*+)(\r\n|[{_ENDS}]|\Z)")

_PREFIX = compile_possessive(
    rf"""(?:
        [\s{_MARKS}]*+
        (?: >
          | (?: [-*+•‣◦▪●·–—:]                                  # bullets; ": definition"
              | \d{{1,9}}[.)\-]
              | [A-Za-z\u0621-\u064a][.)]
              | [ivxIVX]{{2,5}}[.)]
              | \( (?:\d{{1,3}}|[A-Za-z\u0621-\u064a]|[ivxIVX]{{2,5}}) \)
              | \[[ xX]\]
              | \[\^[^\]\s]{{1,30}}\]:                          # a footnote's text
              | \#{{1,6}}
            ) (?=[\s{_MARKS}]|\Z)
        )
    )*+
    [\s{_MARKS}]*+""",
    re.VERBOSE,
)

_PIPE = re.compile(r"(?<!\\)(\|)")

# Opening and closing signs round a whole line, those that begin with another one first.
_WRAPPERS = (
    *((sign, sign) for sign in ("***", "**", "*", "__", "_", "~~", '"')),
    *("“”", "«»", "‘’", "„“"),
)
_OPENING = {opening[0] for opening, _ in _WRAPPERS}

# Within a line: holes, bold type, columns, and the brackets of links, whose target is a hole.
_BORDER = re.compile(
    rf"({HOLE}|\*\*|\t|(?<!\\)\||(?<![!\[])[!\[]*+(?<=\[)(?=[^\[\]{HOLE}]*+\]{HOLE}))"
)

_PUNCTUATION = string.punctuation + "،؛؟٪۔…–—“”„«»‘’·•。，、；：？！（）【】『』「」"


def line_pieces(text: str) -> list[Piece]:
    """The text's lines, each cut into markup to copy and words to translate."""
    lines = _LINE.findall(text)
    in_table = _table_rows([line for line, _ in lines])
    return _merged(
        piece
        for (line, end), is_row in zip(lines, in_table, strict=True)
        for piece in (*_line(line, is_row), Piece(end, False))
    )


def inner_parts(text: str) -> list[Piece]:
    """The line's parts between holes and signs; these, punctuation that touches them, and what
    makes the line's beginning a role tag are copied."""
    tag = ROLE.match(text)
    if tag is None:
        return _merged(_between_borders(text))
    start, end = tag.span("role")
    pieces = (
        Piece(text[:start], False),
        # A letter alone says nothing that could be translated.
        Piece(text[start:end], end - start > 1),
        Piece(text[end : tag.end()], False),
    )
    return _merged((*pieces, *_between_borders(text[tag.end() :])))


def _table_rows(lines: list[str]) -> list[bool]:
    """Which lines are rows: those that begin with a pipe, and those round a delimiter row."""
    rows = [line.lstrip(_SPACES + ">").startswith("|") for line in lines]
    below_delimiter = False
    for index, line in enumerate(lines):
        if "|" not in line:
            below_delimiter = False
        elif "-" in line and not line.strip(_SPACES + ">|:-"):
            rows[max(index - 1, 0)] |= "|" in lines[index - 1]
            below_delimiter = True
        rows[index] |= below_delimiter
    return rows


def _line(line: str, is_row: bool) -> Iterator[Piece]:
    prefix = _PREFIX.match(line).group()
    body = line[len(prefix) :]
    yield Piece(prefix, False)
    if is_row:
        for cell in _PIPE.split(body):
            yield from _core(cell)
        return
    if "#" in prefix:
        words = body.rstrip(_SPACES).rstrip("#")
        if words[-1:].isspace():
            yield from _core(words)
            yield Piece(body[len(words) :], False)
            return
    yield from _core(body)


def _core(text: str) -> Iterator[Piece]:
    """The text without the white space and the signs that are wrapped round all of it."""
    core = text.strip(_SPACES)
    if not has_letter(core):
        yield Piece(text, False)
        return
    start = text.index(core)
    end = start + len(core)
    width = _wrapper_widths(core)
    if width == (0, 0):
        yield Piece(text[:start], False)
        yield Piece(core, True)
    else:
        yield Piece(text[: start + width[0]], False)
        yield from _core(core[width[0] : len(core) - width[1]])
        end -= width[1]
    yield Piece(text[end:], False)


def _wrapper_widths(core: str) -> tuple[int, int]:
    """How many characters open and close a pair of signs round all of the text."""
    if core[0] in _OPENING:
        for opening, closing in _WRAPPERS:
            if core.startswith(opening) and core.endswith(closing):
                inner = core[len(opening) : len(core) - len(closing)]
                if inner and opening not in inner and closing not in inner:
                    return len(opening), len(closing)
    return 0, 0


def _between_borders(text: str) -> Iterator[Piece]:
    parts = _BORDER.split(text)
    last = len(parts) - 1
    for index, part in enumerate(parts):
        if index % 2:
            yield Piece(part, False)
            continue
        words = part.lstrip(_PUNCTUATION) if index else part
        words = words[_PREFIX.match(words).end() :]
        start = len(part) - len(words)
        words = words.rstrip(_PUNCTUATION) if index < last else words
        words = words.rstrip(_SPACES)
        yield Piece(part[:start], False)
        yield Piece(words, has_letter(words))
        yield Piece(part[start + len(words) :], False)


def _merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Without empty pieces, and neighbours that are copied in one."""
    merged: list[Piece] = []
    copied: list[str] = []
    for piece in pieces:
        if not piece.translate:
            copied.append(piece.text)
            continue
        if before := "".join(copied):
            merged.append(Piece(before, False))
        copied = []
        merged.append(piece)
    if after := "".join(copied):
        merged.append(Piece(after, False))
    return merged
