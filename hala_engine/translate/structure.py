"""Whether a translation has its source's structure: lines, lists, headings, tables, quotes, tags.

Both texts hold the character U+E000 where code, URLs and other untranslated spans stand.

Two views of a text are compared. Its lines: which are blank, which are nothing but holes (a
block of code), options `A)`, task boxes, table rows, notes and role tags such as `User:`. And its
blocks as a CommonMark parser with tables sees them: nesting of lists, items and their numbers,
levels of headings, quotes, rows and cells. Signs that differ by habit of writing are made equal
before: `•` and `-`, `١.` and `1)`, direction marks, ends of lines. Of the signs within lines, bold
type, pipes, links and columns parted by tabs count.
"""

import re
from itertools import chain, zip_longest

from markdown_it import MarkdownIt

from hala_engine.translate.possessive import compile_possessive

_ODD_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_LINE_END = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_MARKS = re.compile("[\u200b\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]+")

# Of a line that follows an end of line. A list marker: a bullet, or a number and what parts it
# from the text.
_MARKER = compile_possessive(
    r"(\n[^\S\n]*+(?:>[^\S\n]*+)*+)(?:[-•‣◦▪●·–—+*]|\(?(\d{1,9})[.)\-])[^\S\n]"
)
# The same, of any line: all before its first letter or hole, and the line's end if none follows.
_LEAD = compile_possessive(r"\n((?:(?![\n\ue000])[\W\d_])*+)(?=(\n?))")

_NEEDS_PARSER = re.compile(r"[|`]")

_KIND = re.compile(
    r"""[\s>]*+ (?:
        (?P<blank> \Z)
      | (?P<holes> \ue000 [\s\ue000]*+ \Z)
      | (?P<row> \|)
      | (?P<note> \[\^[^\]\s]{1,30}\]:)
      | (?P<definition> [:：] (?=\s+\S))
      | (?P<option> \(? (?:[A-Za-z\u0621-\u064a] | [ivxIVX]{2,5}) [.)] (?=\s))
      | (?:[-*+] | \d{1,9}[.)]) \s++ (?: (?P<open> \[\ \]) | (?P<done> \[[xX]\]) ) (?=\s)
    )""",
    re.VERBOSE,
)

_ROLES = (
    "user|assistant|human|system|ai|bot|gpt|model|tool|student|teacher|tutor|customer|agent|"
    "interviewer|interviewee|doctor|patient|client|speaker|person|narrator|"
    "q|a|question|answer|instructions?|input|output|response|prompt|context|passage|premise|"
    "hypothesis|options|choices|solution|explanation|example|step|"
    "المستخدم|مستخدم|المساعد|مساعد|الإنسان|إنسان|النظام|نظام|الروبوت|الطالب|المعلم|العميل|"
    "س|ج|سؤال|السؤال|جواب|الجواب|إجابة|الإجابة|التعليمات|تعليمات|المدخلات|المخرجات|المدخل|المخرج|"
    "الرد|السياق|النص|المقدمة|الفرضية|الخيارات|الحل|الشرح|مثال|خطوة|الخطوة"
)
_DECORATION = r"[\s>#*_\-\"]*+"
ROLE = re.compile(
    rf"{_DECORATION}(?P<role>(?:{_ROLES})(?:\ ?\d{{1,3}})?)[*_]{{0,4}}+\s?[:：][*_]{{0,4}}+",
    re.IGNORECASE,
)
"""A line that says who speaks or what follows, `**Question 1:**`."""
_LABEL = re.compile(rf"{_DECORATION}[^\W\d_][^:：]{{0,30}}[:：]")

# Words, perhaps in quotes, that are not the letter of an option.
_PLAIN_START = re.compile(r"""["'“«(]?+[^\W\d_](?:[^\W\d_]|\ )""")
_GAP = re.compile(r"(?<=\S)[^\S\n]++(?=\S)")

# Blocks alone; the spans within a line are not looked at.
_PARSER = (
    MarkdownIt("commonmark")
    .enable("table")
    .disable(["inline", "text_join", "reference", "html_block"])
)


def same_structure(source: str, translation: str) -> bool:
    """Whether a reader sees the same lines, lists, headings, tables, quotes and role tags.

    Every text has the same structure as itself. How many blank lines part two paragraphs, how
    wide a nested list is indented, and single `*` of emphasis do not count.
    """
    if _is_plain_line(source) and _is_plain_line(translation):
        return True
    source, translation = _normal(source), _normal(translation)
    return (
        _signs(source) == _signs(translation)
        and _same_lines(source, translation)
        and _same_blocks(source, translation)
    )


def with_line_ends_of(source: str, translation: str) -> str:
    """The translation with the source's ends of lines, of which models know one kind."""
    if len(source.splitlines()) <= 1:
        return translation
    wanted = _LINE_END.findall(source)
    if len(set(wanted)) == 1:
        return _LINE_END.sub(wanted[0], translation)
    lines = _LINE_END.split(translation)
    if len(lines) != len(wanted) + 1:
        return translation
    return "".join(chain.from_iterable(zip_longest(lines, wanted, fillvalue="")))


def _is_plain_line(text: str) -> bool:
    """Surely one line without markup; of a few of those this says False, which costs only time."""
    return (
        len(text.splitlines()) == 1
        and _PLAIN_START.match(text) is not None
        and "*" not in text
        and "|" not in text
        and "]" not in text
        and "\t" not in text
        and (":" not in text or ROLE.match(text) is None)
    )


def _normal(text: str) -> str:
    """With one kind of line end, also at both ends, and one kind of each list marker."""
    text = _ODD_LINE_END.sub("\n", text)
    if not text.isascii():
        text = _MARKS.sub("", text)
    return _MARKER.sub(_plain_marker, f"\n{text}\n")


def _plain_marker(marker: re.Match[str]) -> str:
    before, number = marker.groups()
    return f"{before}- " if number is None else f"{before}{int(number)}. "


def _signs(text: str) -> tuple[int, ...]:
    """How often there are what parts a line: bold type, pipes, links, columns."""
    links = text.count("]\ue000")
    columns = sum("\t" in gap for gap in _GAP.findall(text)) if "\t" in text else 0
    return text.count("**") // 2, text.count("|"), links, text.count("[") if links else 0, columns


def _same_lines(source: str, translation: str) -> bool:
    """Whether the lines are of the same kinds, and a role tag stands where the source has one."""
    lines, others = _lines(source), _lines(translation)
    return [kind for kind, _ in lines] == [kind for kind, _ in others] and all(
        _LABEL.match(other)
        for (_, line), (_, other) in zip(lines, others, strict=True)
        if ROLE.match(line)
    )


def _lines(text: str) -> list[tuple[str, str]]:
    """Kind and text of each line; blank ones once, and only between others."""
    lines: list[tuple[str, str]] = []
    blank = False
    for line in text.split("\n"):
        match = _KIND.match(line)
        kind = match.lastgroup if match else "text"
        if kind == "blank":
            blank = bool(lines)
            continue
        if blank:
            lines.append(("blank", ""))
            blank = False
        lines.append((kind, line))
    return lines


def _same_blocks(source: str, translation: str) -> bool:
    # Of all but tables and fences, the beginnings of the lines decide; they are seen faster.
    if not (_NEEDS_PARSER.search(source) or _NEEDS_PARSER.search(translation)) and (
        _LEAD.findall(source) == _LEAD.findall(translation)
    ):
        return True
    return _blocks(source) == _blocks(translation)


def _blocks(text: str) -> list[tuple[str, str, str]]:
    return [(token.type, token.tag, token.info) for token in _PARSER.parse(text)]
