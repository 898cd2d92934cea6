import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_rows import HOLE, MARKUP, corpus
from markdown_it import MarkdownIt

from hala_engine.translate.structure import same_structure, with_line_ends_of


@settings(max_examples=500)
@given(MARKUP)
def test_a_text_has_the_structure_of_itself(text):
    assert same_structure(text, text)


def test_every_text_of_the_hand_written_file_has_the_structure_of_itself():
    for text in corpus():
        assert same_structure(text, text)


SIGNS = ["\n", "\n", "\n\n", " ", "    ", "\t", "- ", "-", "1. ", "2. ", "# ", "#", "> ", ">"]
SIGNS += ["|", "|-|", "---", "===", "***", "```", "~~~", HOLE]
WORDS = {"a": "نص", "b c": "x", "A": "ب"}


@settings(max_examples=2000)
@given(st.lists(st.sampled_from([*SIGNS, *WORDS]), max_size=12), st.data())
def test_texts_called_the_same_have_the_same_blocks_for_a_markdown_parser(parts, data):
    """Also where no parser is asked because the lines begin alike."""
    translated = [WORDS.get(part, part) for part in parts]
    if parts and data.draw(st.integers(0, 5)) == 0:
        translated.pop(data.draw(st.integers(0, len(parts) - 1)))
    texts = ["".join(parts), "".join(translated)]
    if same_structure(*texts):
        parser = MarkdownIt("commonmark").enable("table").disable(["html_block", "reference"])
        blocks = [[(token.type, token.tag) for token in parser.parse(text)] for text in texts]
        assert blocks[0] == blocks[1]


LIST = "Buy:\n\n- milk\n- bread\n  - white\n  - brown\n- eggs\n\nThanks."
STEPS = "1. Wash\n2. Peel\n3. Cut"
TABLE = "| Name | Age |\n|---|---|\n| Ali | 7 |\n| Mona | 9 |"


@pytest.mark.parametrize(
    "source, translation",
    [
        ("One sentence.", "جملة واحدة."),
        ("One sentence: with a colon.", "جملة واحدة بلا نقطتين."),
        ("", ""),
        ("One.\nTwo.\n\nThree.", "واحد.\nاثنان.\n\nثلاثة."),
        ("One.\n\n\n\nTwo.", "واحد.\n\nاثنان."),
        ("One.\r\nTwo.", "واحد.\nاثنان."),
        ("One.\u2028Two.", "واحد.\nاثنان."),
        ("One.\n\nTwo.\n", "\n\nواحد.\n \t\nاثنان."),
        (LIST, "اشتر:\n\n- حليب\n- خبز\n  - أبيض\n  - أسمر\n- بيض\n\nشكرا."),
        (LIST, "اشتر:\n\n* حليب\n* خبز\n    * أبيض\n    * أسمر\n* بيض\n\nشكرا."),
        ("- milk\n- bread", "• حليب\n• خبز"),
        ("• milk\n• bread", "- حليب\n- خبز"),
        ("- milk\n- bread", "\u200f- حليب\n\u200f- خبز"),
        (STEPS, "١. اغسل\n٢. قشر\n٣. قطع"),
        (STEPS, "1) اغسل\n2) قشر\n3) قطع"),
        (STEPS, "١- اغسل\n٢- قشر\n٣- قطع"),
        ("(1) Wash\n(2) Peel", "(١) اغسل\n(٢) قشر"),
        ("- [ ] Call\n- [x] Write", "- [ ] اتصل\n- [x] اكتب"),
        ("# A\n\n## B", "# أ\n\n## ب"),
        ("Title\n=====\ntext", "عنوان\n===\nنص"),
        (TABLE, "| الاسم | العمر |\n| :--- | ---: |\n| علي | ٧ |\n| منى | ٩ |"),
        ("> One\n> two\n\nThree", "> واحد\n> اثنان\n\nثلاثة"),
        (f"Run:\n\n{HOLE}\n\nDone.", f"شغل:\n\n{HOLE}\n\nتم."),
        ("It is **very** *good*.", "إنه جيد **جدا**."),
        ("A) Paris\nB) Rome", "أ) باريس\nب) روما"),
        ("User: Hi\nAssistant: Hello", "المستخدم: مرحبا\nالمساعد: أهلا"),
        ("Q: Why?\nA: Because.", "س: لماذا؟\nج: لأن."),
        ("### Instruction:\nSay yes.", "### التعليمات:\nقل نعم."),
        ("**Question 1:** Why?", "**السؤال ١:** لماذا؟"),
        ("السؤال: لماذا؟\nالجواب: لا أدري.", "Question: why?\nAnswer: I do not know."),
        ("2 eggs\n1 cup of flour", "بيضتان\nكوب دقيق"),
        ("roses are red,\n  violets are blue", "الورد أحمر،\n  والبنفسج أزرق"),
        ("First.\x85Second.", "الأول.\nالثاني."),
        ("| 2 | Insertion |", "| ٢ | الإدراج |"),
        (f"See [this]{HOLE} or [that]{HOLE}", f"انظر [ذاك]{HOLE} أو [هذا]{HOLE}"),
        ("See [1] or 2", "انظر 1 أو 2"),
        ("mass\tkilogram", "كتلة\tكيلوغرام"),
        ("a trailing tab\t", "جدولة في النهاية"),
        ("[^1]: The note.", "[^1]: الحاشية."),
        ("Term\n: What it is", "مصطلح\n: ما هو"),
    ],
)
def test_kept_structure(source, translation):
    assert same_structure(source, translation)
    assert same_structure(source, source)


@pytest.mark.parametrize(
    "source, translation",
    [
        ("One.\nTwo.", "واحد. اثنان."),
        ("One. Two.", "واحد.\nاثنان."),
        ("One.\nTwo.\nThree.", "واحد.\n\nاثنان.\nثلاثة."),
        ("One.\n\nTwo.", "واحد.\nاثنان."),
        ("One.\n\nTwo.\n\nThree.", "واحد.\n\nثلاثة."),
        (LIST, "اشتر:\n\n- حليب\n- خبز\n  - أبيض\n- بيض\n\nشكرا."),
        (LIST, "اشتر:\n\n- حليب\n- خبز\n- أبيض\n- أسمر\n- بيض\n\nشكرا."),
        (LIST, "اشتر:\n\n- حليب\n- خبز\n  - أبيض\n  - أسمر\nبيض\n\nشكرا."),
        ("- milk", "حليب"),
        ("milk", "- حليب"),
        ("- milk\n- bread", "1. حليب\n2. خبز"),
        (STEPS, "1. اغسل\n2. قشر\n4. قطع"),
        (STEPS, "1. اغسل\n1. قشر\n1. قطع"),
        (STEPS, "اغسل\nقشر\nقطع"),
        ("(1) Wash\n(2) Peel", "اغسل\nقشر"),
        ("- [ ] Call\n- [x] Write", "- [x] اتصل\n- [x] اكتب"),
        ("- [ ] Call\n- [x] Write", "- اتصل\n- اكتب"),
        ("# A\n\n## B", "# أ\n\n# ب"),
        ("# A", "أ"),
        ("A", "# أ"),
        ("Title\n=====\ntext", "عنوان\n-----\nنص"),
        (TABLE, "| الاسم | العمر |\n|---|---|\n| علي | 7 |"),
        (TABLE, "| الاسم |\n|---|\n| علي |\n| منى |"),
        (TABLE, "| الاسم | العمر |\n| علي | 7 |\n| منى | 9 |\n| |"),
        (TABLE, "الاسم العمر\n---\nعلي 7\nمنى 9"),
        ("> One\n\nThree", "واحد\n\nثلاثة"),
        ("> One\n> > two", "> واحد\n> اثنان"),
        (f"Run:\n\n{HOLE}\n\nDone.", f"شغل: {HOLE}\n\nتم.\n\nتم."),
        (f"Run:\n\n{HOLE}\n\nDone.", f"شغل:\n\nتم.\n\n{HOLE}"),
        (f"Run:\n{HOLE}", f"شغل {HOLE}:\nالآن"),
        ("It is **very** good.", "إنه جيد جدا."),
        ("It is good.", "إنه **جيد**."),
        ("**One** and **two**", "**واحد** واثنان"),
        ("A) Paris\nB) Rome", "باريس\nروما"),
        ("User: Hi\nAssistant: Hello", "المستخدم: مرحبا\nأهلا"),
        ("User: Hi", "مرحبا"),
        ("Q: Why?\nA: Because.", "لماذا؟\nلأن."),
        ("### Instruction:\nSay yes.", "### التعليمات\nقل نعم."),
        ("text", f"نص\n```\n{HOLE}\n```"),
        ("roses are red,\n\n    violets are blue", "الورد أحمر،\n\nوالبنفسج أزرق"),
        ("One.", ""),
        ("| 2 | Insertion |", "٢ الإدراج"),
        ("| 2 | Insertion |", "| ٢ الإدراج |"),
        ("Date | Room | 3", "التاريخ والغرفة | 3"),
        (f"See [this]{HOLE}", f"انظر هذا]{HOLE}"),
        (f"See [this]{HOLE}", f"انظر هذا {HOLE}"),
        ("mass\tkilogram", "كتلة كيلوغرام"),
        ("First.\x85Second.", "الأول. الثاني."),
        ("[^1]: The note.", "الحاشية."),
        ("Term\n: What it is", "مصطلح\nما هو"),
    ],
)
def test_lost_or_added_structure(source, translation):
    assert not same_structure(source, translation)


@pytest.mark.parametrize(
    "source, translation, expected",
    [
        ("a\r\nb\r\n\r\nc", "x\ny\n\nz", "x\r\ny\r\n\r\nz"),
        ("a\r\nb\r\n\r\nc", "x\ny\n\n\nz", "x\r\ny\r\n\r\n\r\nz"),
        ("a\nb", "x\r\ny", "x\ny"),
        ("a\rb\u2028c", "x\ny\nz", "x\ry\u2028z"),
        ("a\rb\u2028c", "x\ny\n\nz", "x\ny\n\nz"),
        ("a", "x\r\n", "x\r\n"),
    ],
)
def test_line_ends_are_the_sources(source, translation, expected):
    assert with_line_ends_of(source, translation) == expected


DOCUMENT = (
    "## A heading\n\nSome words of a paragraph, which goes on for quite a while and then ends.\n\n"
    "- an item with **strong** words\n  - an item below it\n\n1. first\n2. second\n\n"
    "| a | b |\n|---|---|\n| c | d |\n\n> a quote\n\n"
)


@pytest.mark.parametrize(
    "text",
    [
        *("- " * 50_000, ">" * 100_000, "- a\n" * 25_000, "|" * 100_000, "*" * 100_000),
        *("|a\n|-\n" + "|a\n" * 30_000, " " * 100_000 + "x", "\n" * 100_000, "`" * 100_000),
        *(
            "> " * 30 + "\n" + "> a\n" * 10_000,
            "a|" * 5_000 + "\n" + "-|" * 5_000 + "\n" + "x\n" * 5_000,
        ),
        *("".join(" " * (i % 200) + "- x\n" for i in range(1_000)), "User: a\n" * 12_000),
        *(
            "~~~\n" * 20_000,
            f"[]{HOLE}" * 30_000,
            "a \t" * 30_000,
            " \t" * 50_000,
            f"{HOLE} " * 50_000,
            "[ ] " * 25_000,
            " \u200f" * 50_000,
            "1. " * 30_000,
        ),
        DOCUMENT * 300,
    ],
    ids=range(22),
)
def test_time_grows_with_the_length_alone(text):
    """A hundred thousand characters: 2 s at most are needed, quadratic work takes minutes."""
    start = time.perf_counter()
    assert same_structure(text, text)
    assert not same_structure(text, text + "\n\n# more")
    assert time.perf_counter() - start < 20
