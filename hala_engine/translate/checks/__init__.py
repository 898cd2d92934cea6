"""What can be seen to be wrong with a translation without understanding it.

Each check is a pure function of a source text and its translation. `flags_of` runs them all; its
result goes into the row's `_hala.flags`. The texts have holes: the character HOLE stands for each
code span, address, formula or tag, so that these count neither as prose nor as letters.

The limits are measured on human English-Arabic translations; `python -m bench.translate_flags`
says how many of those each check would flag, and how many damaged ones it finds.
"""

from itertools import compress

from hala_engine.translate.checks.copying import is_copied_symbol, is_untranslated
from hala_engine.translate.checks.lengths import is_empty, is_odd_length
from hala_engine.translate.checks.markup import is_markup_broken
from hala_engine.translate.checks.options import CheckOptions
from hala_engine.translate.checks.repetition import is_repetitive
from hala_engine.translate.checks.replies import has_preface, is_answered
from hala_engine.translate.checks.scripts import is_wrong_script

__all__ = ["FLAGS", "CheckOptions", "flags_of"]

FLAGS: tuple[str, ...] = (
    "truncated",
    "repetition",
    "untranslated",
    "wrong_script",
    "length_ratio",
    "placeholder_lost",
    "empty",
    "structure_lost",
    "markup_broken",
    "preface",
    "answered",
)
"""Every flag, in the order in which `flags_of` gives them."""

_DEFAULT = CheckOptions()


def flags_of(
    source: str,
    translation: str,
    source_language: str,
    target_language: str,
    *,
    truncated: bool = False,
    placeholder_lost: bool = False,
    structure_lost: bool = False,
    options: CheckOptions = _DEFAULT,
) -> list[str]:
    """The flags of one translated text, in the order of `FLAGS`.

    `truncated`, `placeholder_lost` and `structure_lost` are known to who asked the model. Where
    nothing came back there is nothing else to check, nor where nothing could be translated.
    """
    languages = (source_language, target_language)
    # In the order of FLAGS.
    empty = is_empty(source, translation)
    if empty or is_copied_symbol(source, translation):
        found = (truncated, False, False, False, False, placeholder_lost, empty, structure_lost)
    else:
        found = (
            truncated,
            is_repetitive(source, translation, options),
            is_untranslated(source, translation, *languages, options),
            is_wrong_script(source, translation, target_language, options),
            is_odd_length(source, translation, *languages, options),
            placeholder_lost,
            False,
            structure_lost,
            is_markup_broken(source, translation),
            has_preface(source, translation, *languages),
            is_answered(source, translation, *languages, truncated),
        )
    return list(compress(FLAGS, found))
