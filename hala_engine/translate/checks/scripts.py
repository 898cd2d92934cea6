"""Letters of a script that the translation should not be written in."""

import re
from functools import cache

from hala_engine.translate.checks.options import CheckOptions
from hala_engine.translate.languages import SCRIPT_LETTERS, language_script

_TATWEEL = "\u0640"
# What is no letter, or belongs to no one's script: ASCII and Latin-1 signs, modifiers and
# combining marks, the Arabic block's marks, digits and punctuation, general punctuation and
# symbols, CJK punctuation, private use (holes), variation selectors, emoji.
_COMMON = (
    r"\x00-@\[-`{-\xa9\xab-\xb9\xbb-\xbf\xd7\xf7\u02b0-\u036f\u0600-\u061f\u0640\u064b-\u066d"
    r"\u06d4\u06d6-\u06ed\u06f0-\u06f9\u08ca-\u08ff\u2000-\u2bff\u3000-\u3020\ue000-\uf8ff"
    r"\ufe00-\ufe0f\ufeff\U0001f000-\U0001faff"
)
# Single Greek letters are symbols of mathematics and science in every language.
_LEAST_RUN = {"greek": 2}
_NAME = re.compile(r"\b[A-ZÀ-ÖØ-ÞА-Я]\w*")
_BRACKETS = re.compile(r"\([^()]*\)")
_SHARED = {"han": {"japanese"}, "japanese": {"han"}}


def is_wrong_script(
    source: str, translation: str, target_language: str, options: CheckOptions
) -> bool:
    """Too few letters are of the target language's script, or some are of a script that is neither
    that one nor Latin and that the source does not have.

    Capitalised words of the source may stay as they are: names count for neither side. And people
    gloss names in brackets, "(Chinese: 樞密院)"; what stands there is not foreign.
    """
    script = language_script(target_language)
    if script is None or not _other(script).search(translation):
        return False
    least = options.min_script_share
    if (
        script_share(translation, script) < least
        and script_share(_without_names(source, translation), script) < least
    ):
        return True
    outside = _BRACKETS.sub("", translation)
    return any(not letters_of(found).search(source) for found in _foreign_scripts(outside, script))


def script_share(text: str, script: str) -> float:
    """Of the letters in the text, the part that belongs to the script (1 when it has none)."""
    own = sum(map(len, _runs(script).findall(text)))
    others = len(_other_letter(script).findall(text))
    return own / (own + others) if others else 1.0


def _without_names(source: str, translation: str) -> str:
    names = set(_NAME.findall(source))
    return _NAME.sub(lambda name: "" if name[0] in names else name[0], translation)


@cache
def letters_of(script: str) -> re.Pattern[str]:
    """Finds a letter of the script, or as many together as make it text of that script."""
    return re.compile(f"[{SCRIPT_LETTERS[script]}]{{{_LEAST_RUN.get(script, 1)}}}")


def _foreign_scripts(text: str, script: str) -> set[str]:
    """The scripts in the text other than this one and Latin."""
    return {match.lastgroup for match in _foreign(script).finditer(text) if match.lastgroup}


@cache
def _other(script: str) -> re.Pattern[str]:
    """Finds what is neither the script's nor common to all: the quick answer for most texts."""
    return re.compile(f"[^{_COMMON}{SCRIPT_LETTERS[script]}]")


@cache
def _runs(script: str) -> re.Pattern[str]:
    return re.compile(f"[{SCRIPT_LETTERS[script]}]+")


@cache
def _other_letter(script: str) -> re.Pattern[str]:
    return re.compile(f"(?![{SCRIPT_LETTERS[script]}{_TATWEEL}])[^\\W\\d_]")


@cache
def _foreign(script: str) -> re.Pattern[str]:
    """Each other script but Latin as a group of its name."""
    mine = {script, "latin"} | _SHARED.get(script, set())
    groups = (
        f"(?P<{name}>{letters_of(name).pattern})" for name in SCRIPT_LETTERS if name not in mine
    )
    return re.compile("|".join(groups))
