"""The lexicon is large enough, complete and clean."""

import re
import unicodedata
from collections import Counter

import pytest

from hala_tools.miniature.lexicon import _rows, load

LEXICON = load()
ARABIC = re.compile(r"[\u0621-\u063a\u0641-\u064a]+( [\u0621-\u063a\u0641-\u064a]+)*")


def arabic_columns() -> list[str]:
    words = [ar for _, _, ar in LEXICON.entries()]
    words += [n.ar_pl for n in LEXICON.nouns if n.ar_pl]
    words += [w for a in LEXICON.adjectives for w in (a.fs, a.mp, a.ar_more) if w]
    for v in LEXICON.verbs.values():
        words += [v.past_i, v.past_she, v.past_they, v.present, v.present_they, v.jussive]
        words += [v.imperative] if v.imperative else []
    return words


def test_lexicon_has_at_least_400_entries():
    assert len(LEXICON.entries()) >= 400


def test_arabic_columns_hold_unvocalised_arabic_letters_only():
    wrong = [word for word in arabic_columns() if not ARABIC.fullmatch(word)]
    assert not wrong
    assert not any(unicodedata.combining(c) for word in arabic_columns() for c in word)


def test_every_noun_has_gender_class_and_plural_or_is_a_mass_or_single_noun():
    for noun in LEXICON.nouns:
        assert noun.gender in ("m", "f"), noun.en
        assert noun.classes, noun.en
        assert bool(noun.en_pl) == bool(noun.ar_pl) == (noun.plural_kind != "-"), noun.en
        if noun.plural_kind == "sm":
            assert noun.ar_pl == noun.ar + "ون", noun.en
        if noun.plural_kind == "sf":
            assert noun.ar_pl.endswith("ات"), noun.en


def test_ta_marbuta_nouns_are_feminine():
    assert not [n.en for n in LEXICON.nouns if n.ar.endswith("ة") and n.gender != "f"]


def test_human_adjectives_have_a_plural():
    for adjective in LEXICON.adjectives:
        assert bool(adjective.mp) == (adjective.plural_kind != "-"), adjective.en
        assert bool(adjective.mp) == bool(adjective.classes & {"person", "job"}), adjective.en
        assert bool(adjective.en_more) == bool(adjective.ar_more), adjective.en


def test_no_entry_stands_twice():
    keys = Counter((part, en) for part, en, _ in LEXICON.entries())
    assert not [key for key, count in keys.items() if count > 1]


@pytest.mark.parametrize("part", ["noun", "person", "country", "city", "adverb", "day", "month"])
def test_no_two_english_words_share_an_arabic_one(part):
    words = Counter(ar for p, _, ar in LEXICON.entries() if p == part)
    shared = {word for word, count in words.items() if count > 1}
    assert not shared


def test_a_row_with_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="needs 3 columns: a;b"):
        _rows("a;b", 3)
