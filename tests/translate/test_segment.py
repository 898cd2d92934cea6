import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine.translate.masking import HOLE
from hala_engine.translate.segment import cut, has_letter, trim

_TEXT = st.text(
    st.one_of(
        st.sampled_from(list("ab. \n\t؟!。…éم\u0301\u200d")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=200,
)


def count_words(texts):
    return [max(1, len(text.split())) for text in texts]


def count_characters(texts):
    return [len(text) for text in texts]


def joined(pieces):
    return "".join(piece.text for piece in pieces)


@settings(max_examples=300)
@given(_TEXT, st.integers(1, 40))
def test_joined_pieces_are_the_exact_text(text, limit):
    assert joined(cut(text, limit, count_characters)) == text
    assert joined(cut(text, limit, count_words)) == text
    assert joined(trim(text)) == text


@settings(max_examples=200)
@given(_TEXT, st.integers(4, 40))
def test_pieces_to_translate_fit_and_have_letters_and_no_outer_white_space(text, limit):
    for piece in cut(text, limit, count_characters):
        if piece.translate:
            assert piece.text == piece.text.strip()
            assert has_letter(piece.text)
        else:
            assert not has_letter(piece.text)


@settings(max_examples=100)
@given(st.text("ab .\n", max_size=200), st.integers(2, 40))
def test_pieces_are_no_longer_than_the_limit(text, limit):
    assert all(len(p.text) <= limit for p in cut(text, limit, count_characters) if p.translate)


def cores(text, limit, count=count_words):
    return [piece.text for piece in cut(text, limit, count) if piece.translate]


@pytest.mark.parametrize(
    "text, core",
    [
        (f"Run this:\n\n{HOLE}\n", "Run this:"),
        (f"{HOLE}\n{HOLE}\n\nIt prints {HOLE}.\n***", f"It prints {HOLE}."),
        ("> What is it?\n>\n", "> What is it?"),
        ("Title\n=====", "Title"),
        ("12\n- one\n\n- two\n34", "- one\n\n- two"),
        (f"{HOLE} is first\nand {HOLE}", f"{HOLE} is first\nand {HOLE}"),
        ("one", "one"),
    ],
)
def test_lines_without_a_letter_are_shown_only_between_others(text, core):
    assert joined(trim(text)) == text
    assert [piece.text for piece in trim(text) if piece.translate] == [core]


def test_outer_lines_take_time_by_the_length_alone():
    start = time.perf_counter()
    for text in ("a" + "\n" * 100_000 + "b", "1\n" * 50_000 + "b" + "\n2" * 50_000):
        assert joined(trim(text)) == text
    assert time.perf_counter() - start < 2


def test_paragraphs_are_preferred_to_sentences():
    assert cores("A b. C d.\n\nE f. G h.", 4) == ["A b. C d.", "E f. G h."]


def test_lines_are_preferred_to_sentences():
    assert cores("A b. C\nE f. G", 3) == ["A b. C", "E f. G"]


def test_sentences_are_preferred_to_words():
    assert cores("One two. Three four! Five six?", 2) == ["One two.", "Three four!", "Five six?"]


def test_arabic_sentences_end_at_arabic_marks():
    assert cores("هل أنت هنا؟ نعم أنا هنا.", 3) == ["هل أنت هنا؟", "نعم أنا هنا."]


def test_neighbours_that_fit_stay_together():
    assert cores("A b. C d. E f. G h.", 4) == ["A b. C d.", "E f. G h."]


def test_a_word_longer_than_the_limit_is_cut_and_marks_stay_with_their_letters():
    pieces = cores("e\u0301" * 50, 7, count_characters)
    assert len(pieces) > 7
    assert all(piece.startswith("e") for piece in pieces)


def test_a_hundred_thousand_characters_without_a_space():
    text = "a" * 100_000
    pieces = cut(text, 100, count_characters)
    assert joined(pieces) == text
    assert max(len(piece.text) for piece in pieces) <= 100


def test_text_without_a_letter_is_copied():
    assert [piece.translate for piece in trim(" 12:30 — 42 ")] == [False]
