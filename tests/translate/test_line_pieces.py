import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from instruction_rows import HOLE, MARKUP, corpus

from hala_engine.translate.line_pieces import inner_parts, line_pieces
from hala_engine.translate.segment import has_letter


def joined(pieces):
    return "".join(piece.text for piece in pieces)


def translated(pieces):
    return [piece.text for piece in pieces if piece.translate]


@settings(max_examples=500)
@given(MARKUP)
@example("|" * 3 + "\n")
def test_joined_pieces_are_the_exact_text(text):
    assert joined(line_pieces(text)) == text
    assert joined(inner_parts(text)) == text


@settings(max_examples=300)
@given(MARKUP)
def test_pieces_to_translate_are_words_of_one_line_and_copied_ones_are_not_neighbours(text):
    for pieces in (line_pieces(text), inner_parts(text)):
        kinds = [piece.translate for piece in pieces]
        assert (False, False) not in set(pairwise(kinds))
        assert all(has_letter(piece) and piece == piece.strip() for piece in translated(pieces))
    for piece in translated(line_pieces(text)):
        assert not set("\n\r\u2028\u2029") & set(piece)
    assert not any(HOLE in piece for piece in translated(inner_parts(text)))


def test_every_text_of_the_hand_written_file_is_cut_without_loss():
    texts = corpus()
    assert len(texts) > 400
    for text in texts:
        assert joined(line_pieces(text)) == text
        assert joined(inner_parts(text)) == text


@pytest.mark.parametrize(
    "text, words",
    [
        ("one line of prose", ["one line of prose"]),
        (
            "first\nsecond\r\nthird\rfourth\u2028fifth",
            ["first", "second", "third", "fourth", "fifth"],
        ),
        ("NEL\x85form feed\x0cdone", ["NEL", "form feed", "done"]),
        ("  indented  ", ["indented"]),
        ("\u00a0\u3000spaces\u00a0", ["spaces"]),
        ("- one\n* two\n+ three\n• four", ["one", "two", "three", "four"]),
        ("1. one\n2) two\n10- ten\n(3) three", ["one", "two", "ten", "three"]),
        ("١. واحد\n٢) اثنان\n٣- ثلاثة", ["واحد", "اثنان", "ثلاثة"]),
        (
            "A) Paris\nb. Rome\n(c) Cairo\n(iv) Tunis\nii. Oslo",
            "Paris/Rome/Cairo/Tunis/Oslo",
        ),
        ("أ) باريس\nب. روما", ["باريس", "روما"]),
        ("- [ ] to do\n- [x] done\n1. [X] sure", ["to do", "done", "sure"]),
        ("# Title\n### Part two ###\n## C#", ["Title", "Part two", "C#"]),
        ("#hashtag stays", ["#hashtag stays"]),
        ("Title\n=====\n\nPart\n---\n\n***", ["Title", "Part"]),
        ("> quoted\n>> twice\n> - item", ["quoted", "twice", "item"]),
        ("Term\n: what it means", ["Term", "what it means"]),
        ("[^1]: the note", ["the note"]),
        ("User: Hi\nAssistant: Hello!", ["User: Hi", "Assistant: Hello!"]),
        ("\u200fنص\u200f\n\u2067نص\u2069", ["نص", "نص"]),
        (
            "**Bold line**\n*Slanted*\n__Under__\n_x y_\n~~Gone~~",
            "Bold line/Slanted/Under/x y/Gone",
        ),
        ("***Both***\n**_Nested_**", ["Both", "Nested"]),
        ('"Quoted."\n“Curly”\n«نص»', ["Quoted.", "Curly", "نص"]),
        ("**Note:** and **more**", ["**Note:** and **more**"]),
        ('"One" or "two"', ['"One" or "two"']),
        ("12. 7\n---\n42 %\n" + HOLE, []),
        (f"See {HOLE} first", [f"See {HOLE} first"]),
        ("don't cut-this (or that) - here", ["don't cut-this (or that) - here"]),
        ("3.5 metres\n-5 degrees\n2024 was", ["3.5 metres", "-5 degrees", "2024 was"]),
    ],
)
def test_the_markup_of_a_line_is_copied(text, words):
    assert translated(line_pieces(text)) == (words.split("/") if isinstance(words, str) else words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("| Name | Age |\n|---|--:|\n| Ali | 7 |", ["Name", "Age", "Ali"]),
        ("Name | Town\n--- | ---\nAli | Oran", ["Name", "Town", "Ali", "Oran"]),
        ("| a \\| b | **c** |", ["a \\| b", "c"]),
        ("> | x | y |", ["x", "y"]),
        ("| a | b |\nafter the table", ["a", "b", "after the table"]),
        ("yes | no, in a sentence", ["yes | no, in a sentence"]),
        ("before | this\n\n| a |", ["before | this", "a"]),
    ],
)
def test_each_cell_of_a_table_is_by_itself(text, words):
    assert translated(line_pieces(text)) == words


@pytest.mark.parametrize(
    "text, words",
    [
        (f"Use {HOLE}, then {HOLE}.", ["Use", "then"]),
        (f"Call it ({HOLE}) or not?", ["Call it", "or not?"]),
        (f"**{HOLE}**: the name", ["the name"]),
        (f"{HOLE} {HOLE}", []),
        (f"“Why?” {HOLE} “Because.”", ["“Why?”", "“Because.”"]),
        (f"كتابٌ {HOLE}، وقلمٌ", ["كتابٌ", "وقلمٌ"]),
        ("no hole, at all.", ["no hole, at all."]),
        (f" {HOLE} 12 {HOLE} ", []),
        (f"save as \u2066{HOLE}\u2069 now", ["save as", "now"]),
        ("**Note:** and **more** here", ["Note", "and", "more", "here"]),
        ("**Hard** – as stone, **b. two**", ["Hard", "as stone,", "two"]),
        ("Date | Main hall | 3", ["Date", "Main hall"]),
        ("kept \\| whole", ["kept \\| whole"]),
        ("mass\tkilogram", ["mass", "kilogram"]),
        (f"see [the book]{HOLE} first", ["see", "the book", "first"]),
        (f"wrap it: [![Build status]{HOLE}]{HOLE}.", ["wrap it:", "Build status"]),
        (f"[not a link] {HOLE}", ["[not a link]"]),
        ("Assistant: Hi: there", ["Assistant", "Hi: there"]),
        ("*Question 2:* Why?", ["Question 2", "Why?"]),
        ("Q: Why?", ["Why?"]),
        ("س: لماذا؟", ["لماذا؟"]),
        ("A note: read it", ["A note: read it"]),
    ],
)
def test_parts_within_a_line(text, words):
    assert translated(inner_parts(text)) == words


@pytest.mark.parametrize(
    "text",
    [
        *("- " * 50_000, ">" * 100_000, "1. " * 30_000, "|" * 100_000, " " * 100_000 + "x"),
        *("a) " * 30_000, "\n" * 100_000, '"' * 100_000, "*_" * 50_000, " \u200f" * 50_000),
        *(
            "“" * 50_000 + "”" * 50_000,
            f"{HOLE} " * 50_000,
            f"{HOLE}." * 50_000,
            "a " * 50_000 + "#",
        ),
        *("[!" * 50_000, f"[]{HOLE}" * 30_000, "a\t" * 50_000, "\t" * 100_000, "**" * 50_000),
        *("\\|" * 50_000, "| a |\n|-|\n" * 10_000, "(" * 100_000, "[^" * 50_000),
    ],
    ids=range(23),
)
def test_time_grows_with_the_length_alone(text):
    """A hundred thousand characters: 0.3 s at most are needed, quadratic work takes minutes."""
    start = time.perf_counter()
    assert joined(line_pieces(text)) == text
    assert joined(inner_parts(text)) == text
    assert time.perf_counter() - start < 5
