import time

import pytest

from hala_engine.errors import InputError
from hala_engine.translate.checks import FLAGS, CheckOptions, flags_of
from hala_engine.translate.masking import HOLE

EN = "The children went to school early in the morning."
AR = "ذهب الأطفال إلى المدرسة في الصباح الباكر."


def flags(source, translation, source_language="en", target="ar", **known):
    return flags_of(source, translation, source_language, target, **known)


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


@pytest.mark.parametrize(
    "text", ["12:30", "مرحبا", "3 + 4 = 7", "C", "(b)", "y = 3x", "¯\\_(ツ)_/¯"]
)
def test_a_copy_of_what_needs_no_translation_is_fine(text):
    assert flags(text, text) == []


def test_wrong_script():
    assert "wrong_script" in flags(EN, "Les enfants sont allés tôt à l'école ce matin.")
    assert "wrong_script" in flags(AR, AR + " نعم", "ar", "en")
    assert flags("Install Python", "ثبّت برنامج Python الآن") == []
    assert "wrong_script" not in flags(EN, "Les enfants", "en", "xx")


def test_names_of_the_source_count_for_no_script():
    assert flags("Where is Energiprojekt AB?", "أين تقع Energiprojekt AB؟") == []
    assert "wrong_script" in flags("Where is the shop?", "أين Energiprojekt AB Stockholm؟")


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
    assert "length_ratio" not in flags("UNESCO", "منظمة الأمم المتحدة للتربية والعلم والثقافة")
    assert "length_ratio" in flags("Hi.", AR)
    assert "length_ratio" in flags(EN, EN * 9, "en", "fr")


def test_holes_count_for_no_length():
    assert flags(EN + HOLE * 200, AR) == []
    assert "length_ratio" in flags(f"{EN} {EN}", AR[:12] + HOLE * 60)


# (English, Arabic) as people write them, with what could mislead a check.
HUMAN = [
    ("Hello!", "مرحباً!"),
    ("Of course, I will help you.", "بالطبع، سأساعدك."),
    ("Sure! What time?", "بالتأكيد! في أي ساعة؟"),
    ("OK, let's go.", "حسناً، هيا بنا."),
    ("Here is your bag.", "ها هي حقيبتك."),
    ("Here is the translation you asked for:", "إليك الترجمة التي طلبتها:"),
    (
        "Translate the following sentence into Arabic: Good morning.",
        "ترجم الجملة إلى العربية: صباح الخير.",
    ),
    ("Note: the shop is closed on Fridays.", "ملاحظة: المتجر مغلق أيام الجمعة."),
    ("The work is done. Note: keep the receipt.", "تم العمل. ملاحظة: احتفظ بالإيصال."),
    ("I hope that helps you find it.", "آمل أن يساعدك ذلك في العثور عليه."),
    ("I cannot help you today.", "لا أستطيع مساعدتك اليوم."),
    ("Sorry, I can't come tomorrow.", "عذراً، لا يمكنني الحضور غداً."),
    ("As an AI language model, I have no feelings.", "كنموذج لغوي، ليس لدي مشاعر."),
    ("Yes, he is my brother.", "نعم، هو أخي."),
    ("No, I have not seen it.", "لا، لم أره."),
    ("Who is the author of this book?", "من مؤلف هذا الكتاب؟"),
    ("Did you watch this movie?", "هل شاهدت هذا الفيلم"),
    ("When did you begin?", "متى بدأت"),
    ("What are two examples of fish?", "اذكر مثالين على الأسماك."),
    ("Did you see it? He asked twice.", "هل رأيته؟ سأل مرتين."),
    ('He said "who is it?"', "قال: «من هذا؟»"),
    ("Install Python 3 and open VS Code.", "ثبّت Python 3 وافتح VS Code."),
    (
        "Microsoft, Google, Amazon, Apple, Meta, Netflix, Tesla, Nvidia and Intel publish results.",
        "تنشر Microsoft, Google, Amazon, Apple, Meta, Netflix, Tesla, Nvidia, Intel نتائجها.",
    ),
    (f"Call {HOLE} before {HOLE}.", f"استدعِ {HOLE} قبل {HOLE}."),
    (f"{HOLE}", f"{HOLE}"),
    ("It costs $5 or $10, not $20.", "يكلف 5$ أو 10 دولارات وليس 20$."),
    ("Ten kilograms cost 30 dollars.", "عشرة كيلوغرامات بثلاثين دولاراً."),
    ("The angle π is about 3.14 radians.", "الزاوية π تساوي نحو 3.14 راديان."),
    ("The Yuan code (Chinese: 大元) was kept.", "حُفظ قانون يوان (بالصينية: 大元)."),
    ("The word 人 means person.", "كلمة 人 تعني شخصاً."),
    ("No, no, no, no, no! Stop it.", "لا، لا، لا، لا، لا! توقف."),
    ("Hahahahahahahahahahahahahahahahahaha!", "هههههههههههههههههههههه!"),
    ("I like **tea** and **coffee**.", "أحب **الشاي** و**القهوة**."),
    ("The set {1, 2} is finite.", "المجموعة {1، 2} منتهية."),
    ("Peace be upon you", "السَّلَامُ عَلَيْكُمْ"),
    ("The train leaves at half past six.", "يغادر القطار في السادسة والنصف."),
    ("She bought three red apples.", "اشترت ثلاث تفاحات حمراء."),
    (
        "Learning needs patience, and patience needs time.",
        "التعلم يحتاج إلى صبر، والصبر يحتاج إلى وقت.",
    ),
    ("Water boils at 100 degrees Celsius.", "يغلي الماء عند 100 درجة مئوية."),
    ("1. Wash the rice.\n2. Boil the water.", "1. اغسل الأرز.\n2. اغلِ الماء."),
    ("List the planets of the solar system.", "اذكر كواكب المجموعة الشمسية."),
]


@pytest.mark.parametrize(("english", "arabic"), HUMAN)
def test_human_pairs_have_no_flag_in_either_direction(english, arabic):
    assert flags(english, arabic) == []
    assert flags(arabic, english, "ar", "en") == []


def test_what_the_caller_knows_is_given_in_its_place():
    known = {"truncated": True, "placeholder_lost": True, "structure_lost": True}
    assert flags(EN, AR, **known) == ["truncated", "placeholder_lost", "structure_lost"]
    assert flags(EN, "", **known) == ["truncated", "placeholder_lost", "empty", "structure_lost"]
    assert set(flags(EN, EN, **known)) <= set(FLAGS)


@pytest.mark.parametrize("translation", ["...", f" {HOLE} ", "؟!"])
def test_only_signs_for_words_is_empty(translation):
    assert flags(f"Read {HOLE} first.", translation) == ["empty"]


@pytest.mark.parametrize("text", [HOLE, f"{HOLE}\n{HOLE}", "***", "→ …"])
def test_a_text_without_words_stays_and_is_not_empty(text):
    assert flags(text, text) == []


LONG_EN = (
    "When the old bridge was closed for repairs, the people of the village had to take the ferry "
    "across the river every morning, which took them nearly an hour."
)
LONG_AR = (
    "عندما أُغلق الجسر القديم للإصلاح، اضطر أهل القرية إلى ركوب العبّارة عبر النهر كل صباح، "
    "وكان ذلك يستغرق منهم قرابة ساعة."
)


def test_a_long_run_of_source_words_is_untranslated():
    half = len(LONG_EN.split()) // 2
    mixed = " ".join(LONG_AR.split()[:8] + LONG_EN.split()[half:])
    assert "untranslated" in flags(LONG_EN, mixed)
    half = len(LONG_AR.split()) // 2
    mixed = " ".join(LONG_EN.split()[:12] + LONG_AR.split()[half:])
    assert "untranslated" in flags(LONG_AR, mixed, "ar", "en")
    assert "untranslated" not in flags(LONG_EN, f"{LONG_AR} the ferry across the river")


def test_numbers_and_holes_do_not_interrupt_a_copied_run():
    source = f"To build it, run {HOLE} and wait for 30 seconds until the light turns green again."
    copied = f"لبنائه run {HOLE} and wait for 30 seconds until the light turns green"
    assert "untranslated" in flags(source, copied)


def test_a_short_source_before_its_translation_is_untranslated():
    assert "untranslated" in flags(
        "I will wait for you here.", "I will wait for you here. سأنتظرك هنا."
    )


def test_words_of_the_targets_own_script_may_stay():
    source = "Read the sentence aloud: ذهب الأطفال إلى المدرسة في الصباح الباكر مع أصدقائهم"
    kept = "اقرأ الجملة بصوت عالٍ: ذهب الأطفال إلى المدرسة في الصباح الباكر مع أصدقائهم"
    assert flags(source, kept) == []


@pytest.mark.parametrize("slip", ["但是", "который", "लेकिन", "שלום", "그러나", "しかし", "και"])
def test_letters_of_a_third_script_are_wrong_unless_the_source_has_them(slip):
    assert flags(EN, f"{AR} {slip}") == ["wrong_script"]
    assert flags(AR, f"{EN} {slip}", "ar", "en") == ["wrong_script"]
    assert flags(f"{EN} {slip}", f"{AR} {slip}") == []


def test_vowel_marks_and_tatweel_are_no_letters_of_another_script():
    assert flags("Peace be upon you all", "السَّـــلَامُ عَلَيْكُمْ جَمِيعًا") == []


@pytest.mark.parametrize(
    "loop",
    [
        AR + " ثم عاد إلى البيت" * 5,
        AR + " نعم" * 9,
        "\n".join([AR] * 4),
        " ".join([AR, "وكان الجو باردا.", AR, "وكان الطريق طويلا.", AR]),
        AR + "هاها" * 12,
        AR + "ه" * 20,
    ],
)
def test_phrases_sentences_syllables_and_letters_loop(loop):
    source = "The children of the town walked slowly home through the quiet streets that night."
    assert "repetition" in flags(source, loop)


def test_a_refrain_of_the_source_is_no_loop():
    verse = "I will wait for you by the sea."
    arabic = "سأنتظرك عند البحر يا حبيبي."
    assert flags("\n".join([verse] * 4), "\n".join([arabic] * 4)) == []


def test_languages_without_lists_are_still_checked():
    french = "Les enfants sont allés à l'école tôt le matin."
    assert flags(EN, french, "en", "fr") == []
    assert flags(french, EN, "fr", "en") == []
    assert "untranslated" in flags(french, french, "fr", "en")
    assert "preface" in flags(EN, f"Here is the French translation: {french}", "en", "fr")
    assert flags("Sortez !", "Sure! Go out.", "fr", "en") == []
    assert flags(EN, "孩子们一大早就去上学了。", "en", "zh") == []
    assert flags(EN, "子供たちは朝早く学校へ行った。", "en", "ja") == []
    assert flags("Where is he?", "彼はどこですか。", "en", "ja") == []


NUMBERED = " ".join(f"قال الرجل إنه ذهب إلى السوق رقم {i} ثم عاد." for i in range(5))


@pytest.mark.parametrize(
    ("options", "translation", "flag"),
    [
        (CheckOptions(min_length_ratio=0.95), AR, "length_ratio"),
        (CheckOptions(max_length_ratio=0.5), AR, "length_ratio"),
        (CheckOptions(min_script_share=0.95), f"{AR} Python", "wrong_script"),
        (CheckOptions(max_loop_words=3), f"{AR} لا لا لا", "repetition"),
        (CheckOptions(max_copied_words=3), f"{AR} early in the morning", "untranslated"),
        (CheckOptions(min_compression=0.6), NUMBERED, "repetition"),
    ],
)
def test_each_threshold_decides(options, translation, flag):
    assert flag not in flags(EN, translation)
    assert flag in flags(EN, translation, options=options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (CheckOptions(min_length_ratio=-1), "--min-length-ratio -1"),
        (CheckOptions(max_length_ratio=0), "--max-length-ratio 0"),
        (CheckOptions(min_length_ratio=2, max_length_ratio=1), "--min-length-ratio 2"),
        (CheckOptions(min_script_share=1.5), "--min-script-share 1.5"),
        (CheckOptions(min_compression=-0.1), "--min-compression -0.1"),
        (CheckOptions(max_loop_words=1), "--max-loop-words 1"),
        (CheckOptions(max_copied_words=0), "--max-copied-words 0"),
    ],
)
def test_impossible_thresholds_are_refused_by_name(options, named):
    with pytest.raises(InputError, match=named):
        options.validate()


def test_the_defaults_are_possible():
    CheckOptions().validate()


@pytest.mark.parametrize(
    "unit", ["!", "(", "{", "<a", "\\", "$", "*", "[", "\n", "ا", "ab ", HOLE, "؟ "]
)
def test_hostile_texts_take_linear_time(unit):
    text = unit * (100_000 // len(unit))
    start = time.perf_counter()
    for source, translation in ((EN, text), (text, text), (text, AR), ("Who is it?", text)):
        flags(source, translation)
        flags(source, translation, "ar", "en")
    assert time.perf_counter() - start < 5
