"""What can be seen to be wrong with a translation without understanding it.

Each check is a pure function of a source text and its translation. `flags_of` runs them all;
its result goes into the row's `_hala.flags`, in the order of `FLAGS`.

Limits come from measured human English-Arabic translations. Characters, Arabic over English:
paragraphs 0.71 to 1.36 around a median of 0.87; short sentences 0.41 to 1.44 between the 1st
and the 99th percentile. zlib squeezes real Arabic paragraphs to 0.44 of their bytes in the
median and to 0.33 at the least. The limits below lie outside these ranges.
"""

import re
import zlib

from hala_engine.translate.languages import SCRIPT_LETTERS, language_script

FLAGS = (
    "truncated",
    "repetition",
    "untranslated",
    "wrong_script",
    "length_ratio",
    "placeholder_lost",
    "empty",
)

# Source characters -> the range of Arabic over English characters outside which one looks.
_RATIO_RANGES = ((20, None), (60, (0.25, 2.5)), (200, (0.35, 1.9)), (None, (0.5, 1.7)))
# For other pairs of languages, whose ratios we have not measured; Chinese is the shortest.
_ANY_RATIO = (0.15, 6.0)

_LOOP_WORDS = 8
_LOOP_PERIODS = range(1, 9)
_COMPRESSIBLE = 0.22
_COMPRESS_FROM_BYTES = 300
_LETTER = re.compile(r"[^\W\d_]")
_SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPT_LETTERS.items()}
_RUN_OF_ONE_CHARACTER = re.compile(r"([^\W\d_])\1{11,}")


def flags_of(
    source: str, translation: str, source_language: str, target_language: str, truncated: bool
) -> list[str]:
    """The flags of one translated text, in the order of `FLAGS`."""
    found = {
        "truncated": truncated,
        "empty": is_empty(source, translation),
        "repetition": is_repetitive(source, translation),
        "untranslated": is_untranslated(source, translation, source_language, target_language),
        "wrong_script": is_wrong_script(translation, target_language),
        "length_ratio": is_odd_length(source, translation, source_language, target_language),
    }
    return [flag for flag in FLAGS if found.get(flag)]


def is_empty(source: str, translation: str) -> bool:
    """Nothing to translate, or nothing came back."""
    return not source.strip() or not translation.strip()


def is_untranslated(
    source: str, translation: str, source_language: str, target_language: str
) -> bool:
    """The model gave the source back, though it had letters of another language's script."""
    if _folded(source) != _folded(translation):
        return False
    script = language_script(target_language)
    if script is not None and script != language_script(source_language):
        return script_share(source, script) < 0.5 and _LETTER.search(source) is not None
    return _LETTER.search(source) is not None


def is_wrong_script(translation: str, target_language: str) -> bool:
    """Fewer than half of the letters are of the script that the target language is written in."""
    script = language_script(target_language)
    if script is None or not _LETTER.search(translation):
        return False
    return script_share(translation, script) < 0.5


def script_share(text: str, script: str) -> float:
    """Of the letters in the text, the part that belongs to the script (0 when it has none)."""
    letters = len(_LETTER.findall(text))
    return len(_SCRIPTS[script].findall(text)) / letters if letters else 0.0


def is_odd_length(
    source: str, translation: str, source_language: str, target_language: str
) -> bool:
    """The translation is far shorter or longer than any human one of such a text."""
    if not source.strip() or not translation.strip():
        return False
    ratio = len(translation.strip()) / len(source.strip())
    pair = (source_language[:2], target_language[:2])
    if pair == ("ar", "en"):
        ratio = 1 / ratio
    limits: tuple[float, float] | None = _ANY_RATIO
    if pair in (("en", "ar"), ("ar", "en")):
        limits = next(
            limits
            for below, limits in _RATIO_RANGES
            if below is None or len(source.strip()) < below
        )
    elif len(source.strip()) < 20:
        limits = None
    return limits is not None and not limits[0] <= ratio <= limits[1]


def is_repetitive(source: str, translation: str) -> bool:
    """The model fell into a loop that the source does not have."""
    if _has_loop(translation) and not _has_loop(source):
        return True
    data = translation.encode("utf-8", "replace")
    if len(data) < _COMPRESS_FROM_BYTES or _squeezed(data) >= _COMPRESSIBLE:
        return False
    # Letters of two bytes squeeze better than ASCII: compare with a margin.
    return _squeezed(source.encode("utf-8", "replace")) > _COMPRESSIBLE * 1.3


def _has_loop(text: str) -> bool:
    """A phrase of 1 to 8 words said over and over, or a dozen times the same letter."""
    if _RUN_OF_ONE_CHARACTER.search(text):
        return True
    words = text.split()
    for period in _LOOP_PERIODS:
        run = 0
        # Three repeats of a long phrase or many of a short one, after its first saying.
        wanted = max(_LOOP_WORDS, 3 * period)
        for earlier, later in zip(words, words[period:], strict=False):
            run = run + 1 if earlier == later else 0
            if run >= wanted - period:
                return True
    return False


def _squeezed(data: bytes) -> float:
    return len(zlib.compress(data)) / len(data) if data else 1.0


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
