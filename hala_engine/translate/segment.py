"""Cutting text that is too long for one prompt, so that joining the pieces restores it exactly.

`cut` returns pieces whose texts, joined, are the input, character for character. A piece is
either to be translated or to be copied: white space and lines without a letter around a piece
are never shown to the model, so they cannot be changed by it.

Text is cut no finer than needed: at blank lines, else at line ends, else after sentences, else
between words, else (a "word" longer than a prompt) between characters. Neighbours are put
together again as long as they fit, to give the model context.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple
from unicodedata import category

CountTokens = Callable[[Sequence[str]], list[int]]

# Each matches what ends an atom; the atom keeps it. From coarse to fine.
_BOUNDARIES = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"""[.!?…؟۔]+["'”’»)\]]*\s+|[。！？]+[”’」』）]*\s*"""),
    re.compile(r"\s+"),
)


_LETTER = re.compile(r"[^\W\d_]")


class Piece(NamedTuple):
    """A part of a text: translated by the model, or copied as it is."""

    text: str
    translate: bool


def has_letter(text: str) -> bool:
    return _LETTER.search(text) is not None


def trim(text: str) -> list[Piece]:
    """One piece for the text; outer white space and lines without a letter in others."""
    core = text.strip()
    if not has_letter(core):
        return [Piece(text, False)] if text else []
    if "\n" in core:
        core = _without_outer_lines(core)
    if len(core) == len(text):
        return [Piece(text, True)]
    start = text.index(core)
    parts = (
        Piece(text[:start], False),
        Piece(core, True),
        Piece(text[start + len(core) :], False),
    )
    return [part for part in parts if part.text]


def _without_outer_lines(core: str) -> str:
    """Without first and last lines that are code, rules, quote signs and the like."""
    before = _LETTER.search(core).start()
    after = len(core) - _LETTER.search(core[::-1]).start()
    end = core.find("\n", after)
    return core[core.rfind("\n", 0, before) + 1 : end if end >= 0 else None].strip()


def cut(text: str, limit: int, count: CountTokens) -> list[Piece]:
    """Pieces of at most about `limit` tokens each; `"".join(piece.text ...) == text`.

    `count` gives the number of tokens of each of some texts. A piece is measured as the sum of
    its atoms, which a tokenizer that merges across their borders can only make smaller.
    """
    return [piece for part in _parts(text, limit, count, level=0) for piece in trim(part)]


def _parts(text: str, limit: int, count: CountTokens, level: int) -> list[str]:
    while level < len(_BOUNDARIES):
        atoms = _split_after(_BOUNDARIES[level], text)
        if len(atoms) > 1:
            return _pack(atoms, limit, count, level + 1)
        level += 1
    return _slices(text, limit, count)


def _split_after(boundary: re.Pattern[str], text: str) -> list[str]:
    ends = [match.end() for match in boundary.finditer(text)]
    cuts = [0, *(end for end in ends if end < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _pack(atoms: list[str], limit: int, count: CountTokens, finer: int) -> list[str]:
    """Neighbouring atoms joined while they fit; an atom that is itself too long is cut finer."""
    parts: list[str] = []
    open_atoms: list[str] = []
    size = 0
    for atom, tokens in zip(atoms, count(atoms), strict=True):
        if open_atoms and size + tokens > limit:
            parts.append("".join(open_atoms))
            open_atoms, size = [], 0
        if tokens > limit:
            parts += _parts(atom, limit, count, finer)
        else:
            open_atoms.append(atom)
            size += tokens
    if open_atoms:
        parts.append("".join(open_atoms))
    return parts


def _slices(text: str, limit: int, count: CountTokens) -> list[str]:
    """Runs of characters that fit, none of which begins with a mark that belongs to the last."""
    [tokens] = count([text])
    if tokens <= limit or len(text) == 1:
        return [text]
    middle = len(text) // 2
    while middle < len(text) and _joins_left(text[middle]):
        middle += 1
    if middle == len(text):
        return [text]
    return _slices(text[:middle], limit, count) + _slices(text[middle:], limit, count)


def _joins_left(character: str) -> bool:
    return category(character) in ("Mn", "Mc", "Me") or character in "\u200d\ufe0f"
