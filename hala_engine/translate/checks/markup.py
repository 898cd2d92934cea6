"""Markup and control text that the translation has and the source has not.

Of the source's own code, tags, formulas and tokens only holes are left here, so that what is found
comes from the model: line breaks written as text, tags, unbalanced braces, leaked tokens.
"""

import re
from collections import Counter
from collections.abc import Callable

# The quick answer: without one of these nothing below can be found.
_SUSPECT = re.compile(r"[\\<&{}$`*\[\ufffd\u2581\ud800-\udfff]")

# Each kind may stand in the translation as often as in the source.
_STRAY = re.compile(
    r"""(?P<escape>\\[nrt"]|\\u[0-9a-fA-F]{4})
    |(?P<token><\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|\[(?:PAD|CLS|SEP|MASK|UNK|BOS|EOS)\])
    |(?P<tag></?[A-Za-z][^<>\n]{0,200}>)
    |(?P<entity>&(?:[A-Za-z]{2,8}|\#\d{1,7}|\#[xX][0-9A-Fa-f]{1,6});)
    |(?P<character>[\ufffd\u2581\ud800-\udfff])  # half a character comes back as U+FFFD""",
    re.VERBOSE,
)
# A dollar beside a digit is money.
_MATHS_DOLLAR = re.compile(r"(?<![\\\d٠-٩])(?<![\d٠-٩][ \xa0])\$(?![ \xa0]?[\d٠-٩])")

_BALANCES: tuple[Callable[[str], bool], ...] = (
    lambda text: text.count("{") == text.count("}"),
    lambda text: text.count("\\(") == text.count("\\)"),
    lambda text: text.count("\\[") == text.count("\\]"),
    lambda text: text.count("```") % 2 == 0,
    lambda text: text.count("**") % 2 == 0,
    lambda text: "$" not in text or len(_MATHS_DOLLAR.findall(text)) % 2 == 0,
)


def is_markup_broken(source: str, translation: str) -> bool:
    """More stray markup than the source has, or pairs that are balanced only in the source."""
    if not _SUSPECT.search(translation):
        return False
    strays = _strays(translation)
    if strays and strays - _strays(source):
        return True
    return any(not balanced(translation) and balanced(source) for balanced in _BALANCES)


def _strays(text: str) -> Counter[str | None]:
    found = (_STRAY.match(text, suspect.start()) for suspect in _SUSPECT.finditer(text))
    return Counter(match.lastgroup for match in found if match is not None)
