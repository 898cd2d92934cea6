import pytest

from hala_engine.translate.checks import flags_of

EN = "The children went to school early in the morning."
AR = "ذهب الأطفال إلى المدرسة في الصباح الباكر."


def flags(source, translation, source_language="en", target="ar", truncated=False):
    return flags_of(source, translation, source_language, target, truncated)


def test_a_good_translation_has_no_flag():
    assert flags(EN, AR) == []
    assert flags(AR, EN, "ar", "en") == []


def test_several_flags_come_in_their_fixed_order():
    assert flags(EN, EN, truncated=True) == ["truncated", "untranslated", "wrong_script"]


@pytest.mark.parametrize(("source", "translation"), [("", ""), ("  \n", "  \n"), (EN, " ")])
def test_empty(source, translation):
    assert flags(source, translation) == ["empty"]


def test_a_copy_is_untranslated_even_with_other_case_and_spacing():
    assert "untranslated" in flags(EN, "  " + EN.upper().replace(" ", "  "))
    assert "untranslated" in flags("Bonjour tout le monde", "Bonjour tout le monde", "fr", "en")


@pytest.mark.parametrize("text", ["12:30", "مرحبا", "3 + 4 = 7"])
def test_a_copy_of_what_needs_no_translation_is_fine(text):
    assert flags(text, text) == []


def test_wrong_script():
    assert "wrong_script" in flags(EN, "Les enfants sont allés tôt à l'école ce matin.")
    assert "wrong_script" in flags(AR, AR + " نعم", "ar", "en")
    assert flags("Install Python", "ثبّت برنامج Python الآن") == []
    assert "wrong_script" not in flags(EN, "Les enfants", "en", "xx")


def test_presentation_forms_are_arabic():
    assert "wrong_script" not in flags("Peace be upon you", "\ufeb3\ufefc\ufee1 \ufecb\ufee0\ufef4")


def test_a_loop_is_repetition_unless_the_source_loops_too():
    assert "repetition" in flags(EN, "ذهب الأطفال " * 12)
    assert "repetition" in flags(EN, "لا " * 40)
    assert "repetition" in flags(EN, "ه" * 60)
    assert "repetition" not in flags("no " * 40, "لا " * 40)


def test_a_long_loop_with_variation_is_seen_by_its_compression():
    looped = "".join(f"قال الرجل إنه ذهب إلى السوق رقم {i} ثم عاد إلى البيت. " for i in range(40))
    varied = " ".join(f"{chr(97 + i % 26)}{i * 7919 % 1000} word{i * 31 % 977}" for i in range(300))
    assert "repetition" in flags(varied, looped)


def test_length_ratio_is_judged_by_length():
    long_source = EN * 8
    assert "length_ratio" in flags(long_source, AR)
    assert "length_ratio" in flags(EN, AR * 4)
    assert "length_ratio" in flags(AR * 8, EN, "ar", "en")
    assert "length_ratio" not in flags("Hi.", "مرحبًا بكم جميعًا.")
