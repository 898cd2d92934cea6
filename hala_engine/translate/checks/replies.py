"""The model talked to its user: it announced its translation, or answered instead of translating.

The phrases are those of English and Arabic, the languages in which models talk here. A phrase says
nothing when the source has its counterpart: "بالطبع، ..." translates "Of course, ...". Counterparts
are known for English and Arabic only, so between other languages fewer phrases are looked for.
"""

import re

from hala_engine.translate.checks import phrases
from hala_engine.translate.checks.phrases import without_marks
from hala_engine.translate.masking import HOLE

_QUESTION_MARKS = ("?", "؟", "？")
# What may stand after a question mark at the end: quotes, brackets, emphasis, direction marks.
_AFTER_QUESTION = " \t\r\n\"'”’»)]*_\u200e\u200f\u202c\u2069" + HOLE
_KNOWN = {("en", "ar"), ("ar", "en")}
_START_CHARACTERS = 200
_END_CHARACTERS = 400


def has_preface(source: str, translation: str, source_language: str, target_language: str) -> bool:
    """The translation is announced before it, or commented after it."""
    start = _start(translation)
    if _alone(_presented(translation, start), phrases.PRESENTS_COUNTERPART, source):
        return True
    if not _both_known(source_language, target_language):
        return False
    polite = phrases.POLITE.match(start)
    if polite is not None and _stands_alone(polite, source[:_START_CHARACTERS]):
        return True
    is_short = len(translation) <= _START_CHARACTERS
    end = start if is_short else without_marks(translation[-_END_CHARACTERS:])
    if phrases.AFTERWORD.search(end) is None:
        return False
    return any(_stands_alone(found, source) for found in phrases.AFTERWORD.finditer(end))


def _presented(text: str, start: str) -> re.Match[str] | None:
    """Where a line announces a translation: each part of a text may be an answer of its own."""
    if "\n" not in text:
        return phrases.PRESENTS.match(start)
    return next(filter(None, map(phrases.PRESENTS.match, without_marks(text).splitlines())), None)


def is_answered(
    source: str,
    translation: str,
    source_language: str,
    target_language: str,
    truncated: bool = False,
) -> bool:
    """The model did what the text says, or declined to.

    That a truncated translation ends without a question mark says nothing.
    """
    start = _start(translation)
    if _alone(phrases.TALK.match(start), phrases.TALK_COUNTERPART, source):
        return True
    if "```" in translation and "`" not in source and HOLE not in source:
        return True
    if not _both_known(source_language, target_language):
        return False
    is_question = source.rstrip(_AFTER_QUESTION).endswith(_QUESTION_MARKS)
    return (
        _alone(phrases.REFUSAL.match(start), phrases.REFUSAL_COUNTERPART, source)
        or _alone(phrases.YES.match(start), phrases.YES_COUNTERPART, source)
        or (is_question and _alone(phrases.NO.match(start), phrases.NO_COUNTERPART, source))
        or (is_question and not truncated and not _asks(translation))
    )


def _asks(text: str) -> bool:
    """It has a question mark, or asks without one as people sometimes do."""
    if any(mark in text for mark in _QUESTION_MARKS):
        return True
    return phrases.ASKS.search(without_marks(text)) is not None


def _alone(found: re.Match[str] | None, counterpart: re.Pattern[str], source: str) -> bool:
    """A phrase was found, and nothing in the source that it could translate."""
    return found is not None and counterpart.search(without_marks(source)) is None


def _stands_alone(found: re.Match[str], source: str) -> bool:
    return _alone(found, phrases.COUNTERPARTS[found.lastgroup or ""], source)


def _start(text: str) -> str:
    return without_marks(text[:_START_CHARACTERS])


def _both_known(source_language: str, target_language: str) -> bool:
    return (source_language[:2], target_language[:2]) in _KNOWN
