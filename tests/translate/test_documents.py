"""A text through a model that keeps marks and lines, and through ones that spoil them."""

import re

import pytest
from fake_engine import fake_translation
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine.jobs.answers import Answer
from hala_engine.translate.documents import Document
from hala_engine.translate.masking import mask
from hala_engine.translate.segment import Piece, cut, trim
from hala_engine.translate.structure import same_structure

MARK = re.compile(r"<x\d+/>")


def run(text, model):
    """(the finished translation, the questions of each round)."""
    masked = mask(text)
    return finished(Document(masked, trim(masked.text)), model)


def finished(document, model):
    rounds = []
    while questions := document.questions:
        rounds.append(questions)
        assert len(rounds) < 4
        document.settle(lambda question: Answer(model(question), 1, 1, "stop"))
    return document.translation(), rounds


def forgetful(question):
    return fake_translation(MARK.sub("", question))


def flattening(question):
    return fake_translation(" ".join(question.split()))


def silent(question):
    return ""


def chatty(question):
    return "سطر\n" + fake_translation(question) + " <x9/>"


MODELS = {
    "good": fake_translation,
    "forgetful": forgetful,
    "flattening": flattening,
    "silent": silent,
    "chatty": chatty,
}
TEXT = """# How to call `f(x)`

1. Open https://a.example/b?c=1 first.
2. Then write to {name} about $x^2$ now.

| name | use |
|------|-----|
| `a`  | the first |

```python
f(1)
```
Good luck!"""


def test_a_good_model_is_asked_once_about_the_whole():
    done, rounds = run(TEXT, fake_translation)
    assert [len(questions) for questions in rounds] == [1]
    assert done.text.count("```python\nf(1)\n```") == 1
    assert not (done.truncated or done.placeholder_lost or done.structure_lost)


@pytest.mark.parametrize("model", ["forgetful", "flattening"])
def test_masks_and_lines_survive_a_weak_model(model):
    done, rounds = run(TEXT, MODELS[model])
    assert len(rounds) in (2, 3)
    assert not (done.placeholder_lost or done.structure_lost)
    good = run(TEXT, fake_translation)[0].text
    assert [line.split() for line in done.text.splitlines()] == [
        line.split() for line in good.splitlines()
    ]


PARTS = [*"ab1 \n`${}<>|#-*\\", "word ", "`x`", "{n}", "$y$", "<b>", "\n\n", "- ", "| ", "<x1/>"]


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_every_masked_span_is_in_the_translation_whatever_the_model_does(model, text):
    done, _ = run(text, MODELS[model])
    assert not done.placeholder_lost
    rest = done.text
    for span in mask(text).spans:
        _, found, rest = rest.partition(span)
        assert found


def test_a_model_may_move_the_marks():
    done, rounds = run("Use `a` before `b` here", lambda q: "<x2/> ثم <x1/>")
    assert done.text == "`b` ثم `a`"
    assert len(rounds) == 1


TABLE = "Name | Town\n--- | ---\n" + "\n".join(f"Ali {n} | Oran" for n in range(4))
TAGGED = (
    "User: What is [this *thing*](https://a.example)?\n**Answer:** It is **hard** – like\tstone.\n"
    "- see [^1] | or\n[^1]: A note.\nTerm\n: what it means\n\n> Why?\n>\n> Because.\n"
)


@pytest.mark.parametrize("text", [TABLE, TAGGED])
@pytest.mark.parametrize("limit", [1000, 8, 3])
@pytest.mark.parametrize("model", ["forgetful", "flattening"])
def test_signs_survive_a_weak_model_wherever_the_text_was_cut(text, limit, model):
    masked = mask(text)
    pieces = cut(masked.text, limit, lambda texts: [len(part.split()) for part in texts])
    done, _ = finished(Document(masked, pieces), MODELS[model])
    assert not (done.placeholder_lost or done.structure_lost)
    assert same_structure(done.source, done.with_holes)
    assert done.text.split() == run(text, fake_translation)[0].text.split()


def test_line_ends_are_the_sources_even_if_the_model_knows_one_kind():
    done, rounds = run("One.\r\nTwo.\r\n\r\nThree.", lambda q: "أ.\nب.\n\nج.")
    assert (done.text, len(rounds)) == ("أ.\r\nب.\r\n\r\nج.", 1)


def test_marks_that_the_prompt_had_not_are_left_out():
    done, _ = run("One word", lambda q: "كلمة <x1/> واحدة <x2>")
    assert done.text == "كلمة  واحدة"


def test_pieces_that_are_each_right_may_have_lost_the_structure_of_the_whole():
    pieces = [Piece("> Why?\n>", True), Piece("\n", False), Piece("> So.", True)]
    for answer, is_lost in (("> لماذا؟\n>", False), ("> لماذا؟ >", True)):
        answers = {"> Why?\n>": answer, "> So.": "> لأن."}
        done, rounds = finished(Document(mask("> Why?\n>\n> So."), pieces), answers.get)
        assert len(rounds) == 1
        assert done.structure_lost == is_lost


def test_a_part_that_comes_back_empty_is_a_loss():
    done, _ = run("Input: happy", lambda q: {"Input": "المدخل"}.get(q, ""))
    assert done.text == "المدخل: "
    assert done.structure_lost


def test_an_error_ends_the_text():
    masked = mask("one text")
    document = Document(masked, trim(masked.text))
    document.settle(lambda question: Answer("", 5, 0, "error", "too long"))
    assert document.questions == []
    assert document.error == "too long"


def test_a_cut_answer_is_truncated_and_tries_are_counted():
    masked = mask("one `a` text")
    document = Document(masked, trim(masked.text))
    document.settle(lambda question: Answer("lost the mark", 5, 3, "stop"))
    document.settle(lambda question: Answer("نص", 2, 1, "length"))
    assert document.translation().truncated
    assert document.translation().text == "نص `a` نص"
    assert (document.prompt_tokens, document.output_tokens) == (9, 5)


def test_text_without_words_is_copied():
    for text in ("", " \n ", "12:30", "```\ncode\n```", "https://a.example/b", "{name} — `x`"):
        done, rounds = run(text, silent)
        assert (done.text, rounds) == (text, [])
