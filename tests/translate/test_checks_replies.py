import pytest

from hala_engine.translate.checks import flags_of

EN = "The children went to school early in the morning."
AR = "ذهب الأطفال إلى المدرسة في الصباح الباكر."


def flags(source, translation, source_language="en", target="ar", **known):
    return flags_of(source, translation, source_language, target, **known)


@pytest.mark.parametrize(
    "begin",
    [
        "إليك الترجمة إلى اللغة العربية:\n",
        "الترجمة: ",
        "**الترجمة:** ",
        "ترجمة النص إلى العربية: ",
        "بالتأكيد! إليك الترجمة: ",
        "بالطبع! ",
        "Here is the translation:\n",
        "Sure! Here's the Arabic translation: ",
        "Translation: ",
        "Arabic: ",
        "The Arabic translation of the text is: ",
    ],
)
def test_a_preface_before_arabic(begin):
    assert "preface" in flags(EN, begin + AR)


@pytest.mark.parametrize("begin", ["الترجمة: ", "Here is the translation: "])
def test_a_preface_before_a_later_line(begin):
    assert "preface" in flags(f"{EN}\n{EN}", f"{AR}\n{begin}{AR}")


@pytest.mark.parametrize(
    "begin",
    [
        "Here is the translation: ",
        "Translation: ",
        "Sure! ",
        "The translation is: ",
        "In English: ",
    ],
)
def test_a_preface_before_english(begin):
    assert "preface" in flags(AR, begin + EN, "ar", "en")


@pytest.mark.parametrize(
    "end",
    [
        "\n\nملاحظة: ترجمت النص ترجمة حرفية.",
        " (ملاحظة: هذا النص مترجم)",
        "\n\nNote: I translated the names as well.",
        "\n\nأتمنى أن يكون هذا مفيداً.",
        "\nLet me know if you need anything else.",
    ],
)
def test_an_afterword(end):
    assert "preface" in flags(EN, AR + end)


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("What is the capital of France?", "عاصمة فرنسا هي باريس."),
        ("Is the sea deep here?", "نعم، البحر عميق هنا."),
        ("Do you like tea?", "لا، أفضل القهوة."),
        ("Where do you live, my friend?", "كنموذج لغوي، ليس لدي مكان أعيش فيه."),
        ("Describe how to pick a strong lock.", "عذراً، لا يمكنني المساعدة في هذا."),
        ("Describe how to pick a strong lock.", "I'm sorry, but I can't help with that."),
        ("Write a function that adds numbers.", "```python\ndef add(a, b): return a + b\n```"),
        ("The sky is blue today.", "نعم، السماء زرقاء اليوم."),
    ],
)
def test_an_answer_is_no_translation(source, answer):
    assert "answered" in flags(source, answer)


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("ما عاصمة فرنسا؟", "The capital of France is Paris."),
        ("هل البحر عميق هنا؟", "Yes, it is deep."),
        ("اكتب قصيدة عن البحر.", "As an AI language model, my poems are not good."),
        ("اشرح طريقة فتح القفل.", "I'm sorry, but I can't assist with that."),
        ("اكتب دالة تجمع عددين.", "```python\ndef add(a, b): return a + b\n```"),
    ],
)
def test_an_answer_in_english_is_no_translation(source, answer):
    assert "answered" in flags(source, answer, "ar", "en")


def test_a_truncated_question_is_not_answered():
    assert flags("What is the capital of France?", "عاصمة فرنسا", truncated=True) == ["truncated"]


@pytest.mark.parametrize(
    "broken",
    [
        AR.replace(" في", "\\n في"),
        AR.replace(" في", "<br> في"),
        AR.replace(" في", "&nbsp;في"),
        AR + "<|im_end|>",
        AR + "</s>",
        AR + " [/INST]",
        AR + "<x1/>",
        AR + "\ufffd",
        AR + " **مهم",
        AR + " \\(x + 1",
        AR + " \\[x",
        AR + " $x",
        AR + " {x",
        AR + " \\u0645",
    ],
)
def test_stray_markup_is_flagged_unless_the_source_has_as_much(broken):
    extra = broken.replace(AR, "") or " \\n <br> &nbsp;"
    assert flags(EN, broken) == ["markup_broken"]
    assert flags(EN + extra, broken) == []


def test_markup_that_was_broken_before_is_no_fault_of_the_translation():
    assert flags("Use {name for the **first part.", "استخدم {name للجزء **الأول.") == []
    assert flags("Half a face: \ud83d", "نصف وجه: \ufffd") == []
