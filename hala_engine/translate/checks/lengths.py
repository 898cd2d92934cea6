"""Nothing came back, or far less or more than people write.

In 10,293 human translations (Tatoeba, XQuAD) the middle 99.8% have this many characters for one of
the source, by the source's length, English to Arabic: 0.33 to 2.0 (15 to 20), 0.32 to 1.7 (20 to
60), 0.39 to 1.6 (60 to 100), all 0.71 to 1.15 from 400 on; Arabic to English: 0.59 to 2.6, 0.51 to
2.3, 0.53 to 1.7, 0.74 to 1.34. Names and abbreviations of a few letters grow up to sevenfold. The
limits lie outside, so that what they catch is no matter of taste.
"""

import re
from bisect import bisect_right

from hala_engine.translate.checks.options import CheckOptions
from hala_engine.translate.masking import HOLE

# From so many source characters on: the range of target over source characters that is passed.
_FROM = (0, 10, 20, 60, 200, 400)
_RANGES = {
    ("en", "ar"): ((0.1, 10.0), (0.25, 4.0), (0.3, 2.1), (0.38, 1.9), (0.5, 1.7), (0.55, 1.5)),
    ("ar", "en"): ((0.1, 10.0), (0.3, 3.8), (0.4, 2.7), (0.5, 1.9), (0.5, 1.9), (0.65, 1.75)),
}
# For pairs of languages that we have not measured; Chinese is the shortest.
_ANY_RANGE = (0.15, 6.0)
_ANY_SHORT_RANGE = (0.0, 40.0)
_SHORT = 20

_WORD_CHARACTER = re.compile(r"[^\W_]")


def is_empty(source: str, translation: str) -> bool:
    """Nothing to translate, or nothing came back: no letter or digit of what the source says."""
    if _WORD_CHARACTER.search(translation) is not None:
        return False
    return not source.strip() or _WORD_CHARACTER.search(source) is not None


def is_odd_length(
    source: str,
    translation: str,
    source_language: str,
    target_language: str,
    options: CheckOptions,
) -> bool:
    """The translation is far shorter or longer than any human one of such a text."""
    source_length = _length(source)
    length = _length(translation)
    if not source_length or not length:
        return False
    low, high = _limits(source_length, source_language[:2], target_language[:2])
    if options.min_length_ratio is not None:
        low = options.min_length_ratio
    if options.max_length_ratio is not None:
        high = options.max_length_ratio
    return not low * source_length <= length <= high * source_length


def _length(text: str) -> int:
    return len(text.replace(HOLE, "").strip())


def _limits(source_length: int, source: str, target: str) -> tuple[float, float]:
    """The usual range of the ratio, by the source's length and two-letter language codes."""
    ranges = _RANGES.get((source, target))
    if ranges is None:
        return _ANY_RANGE if source_length >= _SHORT else _ANY_SHORT_RANGE
    return ranges[bisect_right(_FROM, source_length) - 1]
