"""Hiding what must never be translated, and the marks that stand for it in prompts.

    masked = mask("Run `ls -l` in /usr/local/bin now.")   # text: "Run \\ue000 in \\ue000 now."
    with_marks(masked.text)                               # "Run <x1/> in <x2/> now."
    unmask(*masked)                                       # the first text, for any text

`mask` puts the one character HOLE in place of each code block, inline code, URL, formula, tag,
placeholder and the like. A HOLE that the source itself holds is hidden in a hole as well, so
that `unmask` restores every text exactly.
"""

import re
from collections.abc import Sequence
from itertools import chain, count, zip_longest
from typing import NamedTuple

from hala_engine.translate.masking.code_blocks import CODE_KEYWORDS, code_blocks
from hala_engine.translate.masking.inline_spans import GAP, HOLE, MARK, Span, inline_spans

# Every text that has a span has one of these: characters that begin or join spans. One class of
# ASCII comes first, so that prose is passed over at the speed of a character set.
_TRIGGER = re.compile(
    r"""[`$\\{<&\[@_/%\#.(~;\n-]"""
    r"""(?:(?<=[`$\\{<&\[@_])"""
    r"""|(?<=/)(?=[A-Za-z0-9_.@+-])"""
    r"""|(?<=%)(?=[(A-Za-z0-9.+#-])"""
    r"""|(?<=\#)(?=[0-9a-fA-F]|include|define|!)"""
    r"""|(?<=[A-Za-z0-9]\.)(?=[A-Za-z0-9_-])"""
    r"""|(?<=[A-Za-z0-9_\]]\()"""
    r"""|(?<=~)(?=~~)"""
    r"""|(?<=-)(?=-[a-z])"""
    r"""|(?<=;)(?=\s*(?:[\r\n]|\Z))"""
    rf"""|(?<=\n)(?=[^\S\n]*(?:{CODE_KEYWORDS})))"""
)
_CODE_START = re.compile(rf"\s*(?:{CODE_KEYWORDS})")
# A model may write a mark as a pair of tags.
_MARK_IN_ANSWER = re.compile(rf"{MARK}(?:{GAP}[<＜]{GAP}/{GAP}[xX]{GAP}(?P=number){GAP}[>＞])?")


class Masked(NamedTuple):
    """A text with one HOLE for each span, and the spans in order."""

    text: str
    spans: tuple[str, ...]


def mask(text: str) -> Masked:
    """The text with a HOLE in place of each span that must not be translated."""
    if not _may_have_spans(text):
        return Masked(text, ())
    found: list[Span] = []
    at = 0
    for start, end in [*code_blocks(text), (len(text), len(text))]:
        found += inline_spans(text, at, start)
        if start < end:
            found.append((start, end))
        at = end
    return _with_holes(text, _neighbours_joined(text, found))


def _may_have_spans(text: str) -> bool:
    if _TRIGGER.search(text) or _CODE_START.match(text):
        return True
    return not text.isascii() and (HOLE in text or "＜" in text)


def unmask(text: str, spans: Sequence[str]) -> str:
    """The text with its holes filled from left to right; as many holes as spans."""
    if not spans:
        return text
    parts = text.split(HOLE)
    if len(parts) != len(spans) + 1:
        raise ValueError(f"{len(parts) - 1} holes for {len(spans)} spans")
    return "".join(chain.from_iterable(zip_longest(parts, spans, fillvalue="")))


def with_marks(text: str) -> str:
    """The text as the model sees it: the holes as <x1/>, <x2/> and so on."""
    if HOLE not in text:
        return text
    numbers = count(1)
    return re.sub(HOLE, lambda _: f"<x{next(numbers)}/>", text)


def read_marks(answer: str, count: int) -> tuple[str, list[int]] | None:
    """The answer with holes in place of its marks, and the 0-based number that each stands for.

    None unless each of the marks 1 to `count` is there once, and no other. Marks may be spelled
    as models spell them: <x1>, < x1 / >, <X1/>, <x1></x1>, other digits. A HOLE character that
    the model made up is dropped, since no prompt has one.
    """
    if not ("<" in answer or "＜" in answer or HOLE in answer):
        return (answer, []) if count == 0 else None
    order: list[int] = []

    def hole(match: re.Match[str]) -> str:
        order.append(int(match["number"]) - 1)
        return HOLE

    text = _MARK_IN_ANSWER.sub(hole, answer.replace(HOLE, ""))
    if sorted(order) != list(range(count)):
        return None
    return text, order


def without_marks(answer: str) -> str:
    """The answer without marks, where the prompt had none."""
    return _MARK_IN_ANSWER.sub("", answer.replace(HOLE, ""))


def _neighbours_joined(text: str, spans: list[Span]) -> list[Span]:
    """Spans with nothing but white space of one line between them become one: fewer marks."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and _is_thin(text[joined[-1][1] : start]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _is_thin(gap: str) -> bool:
    return not gap or (gap.isspace() and gap.splitlines() == [gap])


def _with_holes(text: str, spans: list[Span]) -> Masked:
    parts = []
    at = 0
    for start, end in spans:
        parts.append(text[at:start])
        at = end
    parts.append(text[at:])
    return Masked(HOLE.join(parts), tuple(text[start:end] for start, end in spans))
