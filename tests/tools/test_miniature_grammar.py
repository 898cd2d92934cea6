"""Agreement rules of the grammar against Arabic written by hand."""

import random
from pathlib import Path

import pytest

from hala_tools.miniature import arabic
from hala_tools.miniature.agreement import AGREEMENT_SENTENCES
from hala_tools.miniature.grammar import Grammar
from hala_tools.miniature.lexicon import load
from hala_tools.miniature.phrases import (
    EMPTY,
    NP,
    Impossible,
    Pair,
    adjective_predicate,
    both,
    copular,
    counted,
    following,
    name,
    noun_phrase,
    owned_by,
    pronoun,
    statement,
)
from hala_tools.miniature.registry import TEMPLATES

LEXICON = load()


def np(noun: str, number: str = "s", det: str = "the", adjective: str = "") -> NP:
    fitting = LEXICON.adjective(adjective) if adjective else None
    return noun_phrase(LEXICON.noun(noun), number, det, fitting)


def person(en: str) -> NP:
    return name(next(p for p in LEXICON.people if p.en == en))


def some(n: int, noun: str, adjective: str = "", digits: bool = False) -> NP:
    fitting = LEXICON.adjective(adjective) if adjective else None
    return counted(LEXICON.noun(noun), n, fitting, digits)


def of(noun: str, owner: NP, number: str = "s") -> NP:
    return owned_by(LEXICON.noun(noun), owner, number=number)


def does(who: NP, verb: str, tense: str, what: NP | None = None, negative: bool = False) -> Pair:
    entry = LEXICON.verbs[verb]
    rest = EMPTY
    if what and entry.ar_prep:
        rest = Pair(f"{entry.en_prep} {what.en}", f"{entry.ar_prep} {what.gen}")
    elif what:
        rest = Pair(f"{entry.en_prep} {what.en}".strip(), what.acc)
    return statement(who, entry, tense, negative, rest)


def is_(who: NP, adjective: str, tense: str = "n", negative: bool = False) -> Pair:
    entry = LEXICON.adjective(adjective)
    return copular(who, adjective_predicate(entry, who), adjective, tense, negative)


ME, YOU, HE, SHE, WE, THEY = (pronoun(p) for p in ("I", "you", "he", "she", "we", "they"))

# (what the grammar makes, English, Arabic); comments name the rule
CASES = [
    # adjectives: gender, definiteness, number
    (is_(np("house"), "big"), "the house is big", "البيت كبير"),
    (is_(np("car"), "new"), "the car is new", "السيارة جديدة"),
    (np("car", det="a", adjective="new"), "a new car", "سيارة جديدة"),
    (np("car", adjective="new"), "the new car", "السيارة الجديدة"),
    (is_(np("book", "p"), "useful"), "the books are useful", "الكتب مفيدة"),
    (is_(np("boy", "p"), "tall"), "the boys are tall", "الأولاد طوال"),
    (is_(np("girl", "p"), "tall"), "the girls are tall", "البنات طويلات"),
    (is_(np("engineer", "p"), "busy"), "the engineers are busy", "المهندسون مشغولون"),
    (is_(np("door", "p"), "open"), "the doors are open", "الأبواب مفتوحة"),
    (is_(WE, "tired"), "we are tired", "نحن متعبون"),
    (is_(SHE, "sick"), "she is sick", "هي مريضة"),
    (np("flower", det="a", adjective="red"), "a red flower", "زهرة حمراء"),
    # dual
    (is_(np("girl", "d"), "happy"), "the two girls are happy", "البنتان سعيدتان"),
    (is_(np("boy", "d", "this"), "kind"), "these two boys are kind", "هذان الولدان لطيفان"),
    (does(HE, "read", "p", np("book", "d")), "he read the two books", "هو قرأ الكتابين"),
    (does(ME, "buy", "p", np("car", "d", "a")), "I bought two cars", "اشتريت سيارتين"),
    (
        does(np("doctor", "d", "a"), "wear", "p", np("hat", "d", "a", "green")),
        "two doctors wore two green hats",
        "ارتدى طبيبان قبعتين خضراوين",
    ),
    # demonstratives
    (is_(np("window", "p", "this"), "closed"), "these windows are closed", "هذه النوافذ مغلقة"),
    (is_(np("man", "p", "this"), "rich"), "these men are rich", "هؤلاء الرجال أغنياء"),
    (is_(np("tree", det="that"), "big"), "that tree is big", "تلك الشجرة كبيرة"),
    # numbers
    (some(3, "book"), "three books", "ثلاثة كتب"),
    (some(5, "car"), "five cars", "خمس سيارات"),
    (some(8, "spoon"), "eight spoons", "ثماني ملاعق"),
    (some(10, "day"), "ten days", "عشرة أيام"),
    (some(11, "week"), "eleven weeks", "أحد عشر أسبوعا"),
    (some(12, "year"), "twelve years", "اثنتا عشرة سنة"),
    (some(15, "student"), "fifteen students", "خمسة عشر طالبا"),
    (some(20, "apple"), "twenty apples", "عشرون تفاحة"),
    (some(21, "lesson"), "twenty-one lessons", "واحد وعشرون درسا"),
    (some(100, "book"), "one hundred books", "مئة كتاب"),
    (some(5, "poet", "kind"), "five kind poets", "خمسة شعراء لطفاء"),
    (some(25, "dollar", digits=True), "25 dollars", "25 دولارا"),
    (some(7, "dinar", digits=True), "7 dinars", "7 دنانير"),
    (
        does(SHE, "see", "p", some(23, "tree")),
        "she saw twenty-three trees",
        "هي رأت ثلاثا وعشرين شجرة",
    ),
    (
        does(ME, "read", "p", some(12, "story")),
        "I read twelve stories",
        "قرأت اثنتي عشرة قصة",
    ),
    (
        does(some(4, "engineer"), "attend", "p", np("meeting")),
        "four engineers attended the meeting",
        "حضر أربعة مهندسين الاجتماع",
    ),
    # the verb and its subject
    (does(np("boy", "p"), "play", "p"), "the boys played", "لعب الأولاد"),
    (does(np("girl"), "laugh", "n"), "the girl laughs", "تضحك البنت"),
    (does(THEY, "travel", "p"), "they travelled", "هم سافروا"),
    (does(ME, "eat", "n", np("bread", det="a")), "I eat bread", "آكل خبزا"),
    (does(ME, "close", "n", np("door")), "I close the door", "أنا أغلق الباب"),
    (
        does(both(person("Mona"), person("Ali")), "go", "p", np("school")),
        "Mona and Ali went to the school",
        "ذهبت منى وعلي إلى المدرسة",
    ),
    (does(np("man"), "swim", "w"), "the man was swimming", "كان الرجل يسبح"),
    (does(THEY, "write", "w"), "they were writing", "هم كانوا يكتبون"),
    (does(np("king"), "sleep", "f"), "the king will sleep", "سينام الملك"),
    (
        following(np("boy", "p"), LEXICON.verbs["sit"], "p"),
        "sat",  # the second verb: `the boys entered and sat`
        "جلسوا",
    ),
    # negation and the jussive
    (does(THEY, "write", "p", None, True), "they did not write", "هم لم يكتبوا"),
    (does(ME, "sleep", "p", None, True), "I did not sleep", "لم أنم"),
    (does(SHE, "say", "p", None, True), "she did not say", "هي لم تقل"),
    (does(HE, "walk", "p", None, True), "he did not walk", "هو لم يمش"),
    (does(WE, "forget", "p", None, True), "we did not forget", "لم ننس"),
    (
        does(np("woman"), "buy", "p", np("bag"), True),
        "the woman did not buy the bag",
        "لم تشتر المرأة الحقيبة",
    ),
    (does(HE, "smile", "n", None, True), "he does not smile", "هو لا يبتسم"),
    (does(SHE, "return", "f", None, True), "she will not return", "هي لن تعود"),
    (is_(np("car"), "new", "n", True), "the car is not new", "ليست السيارة جديدة"),
    (is_(THEY, "poor", "n", True), "they are not poor", "هم ليسوا فقراء"),
    (is_(np("lake", "p"), "big", "n", True), "the lakes are not big", "ليست البحيرات كبيرة"),
    (is_(np("bridge"), "wide", "p", True), "the bridge was not wide", "لم يكن الجسر واسعا"),
    # past and future of nominal sentences
    (is_(np("house"), "big", "p"), "the house was big", "كان البيت كبيرا"),
    (is_(np("employee", "p"), "honest", "p"), "the employees were honest", "كان الموظفون صادقين"),
    (is_(np("train"), "slow", "p"), "the train was slow", "كان القطار بطيئا"),
    (is_(ME, "happy", "f"), "I will be happy", "سأكون سعيدا"),
    (is_(np("girl", "d"), "sad", "p"), "the two girls were sad", "كانت البنتان حزينتين"),
    # possession
    (np("car", det="I"), "my car", "سيارتي"),
    (np("house", det="they", adjective="big"), "their big house", "بيتهم الكبير"),
    (is_(np("friend", "p", "he"), "smart"), "his friends are smart", "أصدقاؤه أذكياء"),
    (does(ME, "meet", "p", np("friend", "p", "we")), "I met our friends", "قابلت أصدقاءنا"),
    (
        does(HE, "talk", "p", np("friend", "p", "she")),
        "he talked to her friends",
        "هو تحدث مع أصدقائها",
    ),
    (is_(np("brother", det="he"), "sick"), "his brother is sick", "أخوه مريض"),
    (does(SHE, "help", "p", np("brother", det="you")), "she helped your brother", "هي ساعدت أخاك"),
    (of("book", person("Samir")), "Samir's book", "كتاب سمير"),
    (
        is_(of("door", np("house"), "p"), "open"),
        "the doors of the house are open",
        "أبواب البيت مفتوحة",
    ),
    (of("employee", np("bank"), "p"), "the employees of the bank", "موظفو البنك"),
    # accusative of names
    (does(WE, "thank", "p", person("Khalid")), "we thanked Khalid", "شكرنا خالدا"),
    (does(WE, "thank", "p", person("Ahmed")), "we thanked Ahmed", "شكرنا أحمد"),
    # spelling of the indefinite accusative
    (does(HE, "drink", "p", np("water", det="a")), "he drank water", "هو شرب ماء"),
    (does(HE, "find", "p", np("key", "p", "a")), "he found keys", "هو وجد مفاتيح"),
    (does(HE, "find", "p", np("pen", "p", "a")), "he found pens", "هو وجد أقلاما"),
    (does(HE, "meet", "p", np("nurse", "p", "a")), "he met nurses", "هو قابل ممرضين"),
]


@pytest.mark.parametrize(("made", "english", "expected"), CASES, ids=[c[1] for c in CASES])
def test_agreement(made, english, expected):
    assert made.en == english
    assert (made.nom if isinstance(made, NP) else made.ar) == expected


def test_there_are_at_least_60_cases():
    assert len(CASES) >= 60


# template: how its English may begin, and how the Arabic then does
OPENINGS = {
    "must": ("She must ", ("يجب عليها أن ", "يجب عليها ألا ")),
    "command": ("Do not ", ("لا ت",)),
    "how_many_question": ("How many ", ("كم ",)),
    "if_clause": ("If ", ("إذا ",)),
    "there_is": ("There are ", ("هناك ", "لا يوجد ", "لا توجد ")),
    "what_time": ("It is ", ("إنها الساعة ",)),
}


@pytest.mark.parametrize("template", OPENINGS)
def test_template_opens_with_its_construction(template):
    english, openings = OPENINGS[template]
    grammar = Grammar(3)
    made = (grammar.sentence(template) for _ in range(2_000))
    fitting = [s for s in made if s.en.startswith(english)]
    assert fitting
    assert all(s.ar.startswith(openings) for s in fitting)


def test_ambiguous_english_past_and_present_are_not_generated():
    with pytest.raises(Impossible):
        does(THEY, "read", "n", np("book"))


def test_jussive_and_imperative_forms_stand_together():
    """The imperative of a hollow or defective verb is as short as its jussive."""
    for verb in LEXICON.verbs.values():
        if verb.imperative and verb.en not in ("eat", "take"):
            stem = verb.jussive[1:]
            assert verb.imperative in (stem, "ا" + stem, "أ" + stem), verb.en


def test_every_template_makes_clean_sentences():
    grammar = Grammar(11)
    for template in TEMPLATES:
        for _ in range(60):
            made = grammar.sentence(template)
            assert made.en[0].isupper() or made.en[0].isdigit(), made
            assert made.en[-1] in ".?" and made.ar[-1] in ".؟", made
            assert "  " not in made.en + made.ar, made
            assert not any("a" <= c.lower() <= "z" for c in made.ar), made
            assert (made.en[-1] == "?") == (made.ar[-1] == "؟"), made
            assert len(made.en.split()) <= 60, made


def test_translation_is_a_function_both_ways():
    grammar = Grammar(5)
    to_arabic: dict[str, str] = {}
    to_english: dict[str, str] = {}
    for _ in range(20_000):
        made = grammar.sentence()
        assert to_arabic.setdefault(made.en, made.ar) == made.ar
        assert to_english.setdefault(made.ar, made.en) == made.en


def test_numbers_by_gender_and_case():
    for n in random.Random(0).sample(range(3, 101), 40):
        masculine, feminine = (arabic.number_words(n, g, "nom") for g in "mf")
        assert (masculine == feminine) == (n % 10 == 0 and n != 10)


def test_agreement_file_and_excluded_sentences_are_the_same():
    path = Path(__file__).parent / "agreement_sentences.tsv"
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    assert len(rows) >= 24
    assert all(len(row) == 2 for row in rows)
    assert tuple(row[0] for row in rows) == AGREEMENT_SENTENCES
