"""The source, or a part of it, stands in the translation as it was."""

import re

from hala_engine.translate.checks.options import CheckOptions
from hala_engine.translate.checks.scripts import letters_of, script_share
from hala_engine.translate.languages import language_script

# Marks, which Arabic has above and below its letters, belong to the word.
_WORD = re.compile(r"[^\W\d_](?:[\w\u064b-\u065f\u0670'’-])*")
_LETTER = re.compile(r"[^\W\d_]")
_LETTERS = re.compile(r"[^\W\d_]{2}")
# A source of fewer words is a name as often as a sentence.
_LEAST_WORDS = 4


def is_untranslated(
    source: str,
    translation: str,
    source_language: str,
    target_language: str,
    options: CheckOptions,
) -> bool:
    """The whole is a copy, or between languages of two scripts a long run of words is."""
    source_script, target_script = (
        language_script(source_language),
        language_script(target_language),
    )
    if source_script is None or target_script is None or source_script == target_script:
        return _is_copy(source, translation) and _LETTER.search(source) is not None
    # What holds no letter of the source's script is no copy of what should be translated.
    if not letters_of(source_script).search(translation):
        return False
    if _is_copy(source, translation):
        return script_share(source, target_script) < 0.5
    return _has_copied_run(source, translation, source_script, options.max_copied_words)


def is_copied_symbol(source: str, translation: str) -> bool:
    """A copy of what has no word, such as the option C, y = 3 or a face of signs."""
    return source == translation and _LETTERS.search(source) is None


def _is_copy(source: str, translation: str) -> bool:
    """The same text, but for case and white space."""
    return _folded(source) == _folded(translation)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _has_copied_run(source: str, translation: str, script: str, longest: int) -> bool:
    """So many words in a row, or two thirds of a shorter source, stand in both texts.

    Only words of the source's script count: numbers and holes between them are no border, words
    of the target's are. Half of the words must not be capitalised, since lists of names stay.
    """
    in_script = letters_of(script).match
    copied = _WORD.findall(translation)
    if len(copied) < _LEAST_WORDS:
        return False
    words = [word for word in _WORD.findall(source) if in_script(word)]
    run = min(longest, max(len(words) * 2 // 3, _LEAST_WORDS))
    # A word that the source cannot have ends a run.
    copied = [word if in_script(word) else "" for word in copied]
    if len(copied) - copied.count("") < run:
        return False
    runs = set(_runs([word.casefold() for word in words], run))
    folded = _runs([word.casefold() for word in copied], run)
    return any(
        found in runs and 2 * sum(word[0].isupper() for word in written) <= run
        for found, written in zip(folded, _runs(copied, run), strict=True)
    )


def _runs(words: list[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(length)), strict=False))
