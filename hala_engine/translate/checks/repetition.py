"""The model fell into a loop.

zlib squeezes human Arabic paragraphs to 0.44 of their bytes in the median and to 0.33 at the
least, 100 kB of them to 0.30, and English ones less: far from what a loop gives.
"""

import re
import zlib
from collections import Counter
from itertools import islice
from operator import eq

from hala_engine.translate.checks.options import CheckOptions

_PERIODS = range(1, 9)
_LEAST_SENTENCE_WORDS = 4
_LEAST_SENTENCES = 3
# Below this part of different words a text may be one that zlib squeezes; human paragraphs of
# 130 words have 0.63 or more.
_VARIED = 0.6
# Characters a word from which on it is none.
_SPACED = 16

_STUTTER_LENGTH = 12
# A dozen times the same letter, or of a few characters many times without a space.
_STUTTER = re.compile(r"([^\W\d_])\1{11}|(\S{1,6}?)\2{15}")
_SENTENCE_END = re.compile(r"[.!?؟。！？\n\u2028]+")

_COMPRESS_FROM_BYTES = 300
_TAIL_BYTES = 1200
# Letters of two bytes squeeze better than ASCII: the source must be clearly less repetitive.
_MARGIN = 1.3


def is_repetitive(source: str, translation: str, options: CheckOptions) -> bool:
    """The translation loops and the source does not."""
    words = translation.split()
    if _has_stutter(words) and not _has_stutter(source.split()):
        return True
    different = len(set(words))
    # The quick answer: three sayings of a loop or a sentence say two thirds of its words again.
    least = 2 * min(options.max_loop_words, _LEAST_SENTENCES * _LEAST_SENTENCE_WORDS) // 3
    if len(words) - different >= least and _triples_again(words) >= least - 2:
        if _has_loop(words, options.max_loop_words):
            return not _has_loop(source.split(), options.max_loop_words)
        if _most_said(translation) > _most_said(source):
            return True
    # Where a script puts no space between words, they say nothing.
    if different > _VARIED * len(words) and len(translation) < _SPACED * len(words):
        return False
    return _is_squeezed(source, translation, options.min_compression)


def _has_stutter(words: list[str]) -> bool:
    if max(map(len, words), default=0) < _STUTTER_LENGTH:
        return False
    return any(len(word) >= _STUTTER_LENGTH and _STUTTER.search(word) for word in words)


def _triples_again(words: list[str]) -> int:
    """How many of the text's three words in a row have been said before."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(triples) - len(set(triples))


def _has_loop(words: list[str], least_words: int) -> bool:
    """A phrase of 1 to 8 words said three times or more in a row, over at least so many words."""
    for period in _PERIODS:
        again = max(least_words, 3 * period) - period
        same = bytes(map(eq, words, islice(words, period, None)))
        if b"\x01" * again in same:
            return True
    return False


def _most_said(text: str) -> int:
    """How often the most frequent sentence or line stands in the text; 0 when hardly any does."""
    said = Counter(
        " ".join(words)
        for words in map(str.split, _SENTENCE_END.split(text))
        if len(words) >= _LEAST_SENTENCE_WORDS
    )
    most = max(said.values(), default=0)
    return most if most >= _LEAST_SENTENCES else 0


def _is_squeezed(source: str, translation: str, limit: float) -> bool:
    """The translation, or its end, compresses as no prose does, and the source does not."""
    data = translation.encode("utf-8", "replace")
    if len(data) < _COMPRESS_FROM_BYTES:
        return False
    tail = data[-_TAIL_BYTES:]
    if min(_ratio(data), _ratio(tail)) >= limit:
        return False
    origin = source.encode("utf-8", "replace")
    return min(_ratio(origin), _ratio(origin[-_TAIL_BYTES:])) > limit * _MARGIN


def _ratio(data: bytes) -> float:
    return len(zlib.compress(data)) / len(data) if data else 1.0
