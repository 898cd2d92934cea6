"""Arabic morphology: the written, unvocalised forms of nouns, adjectives, verbs and numbers.

Case is `nom`, `acc` or `gen`; agreement keys are ms, fs, md, fd, mp, fp (gender, number).
"""

from __future__ import annotations

from hala_tools.miniature.lexicon import Adjective, Noun, Verb, load

SUFFIXES = {"I": "ي", "you": "ك", "he": "ه", "she": "ها", "we": "نا", "they": "هم"}
PRONOUNS = {"I": "أنا", "you": "أنت", "he": "هو", "she": "هي", "we": "نحن", "they": "هم"}
BE = Verb(
    "be", "is", "was", "been", "being",
    "كان", "كنت", "كانت", "كانوا", "يكون", "يكونون", "يكن", "كن", "", "", frozenset(),
)  # fmt: skip
BROTHER = {"nom": "أخو", "acc": "أخا", "gen": "أخي"}


def with_article(word: str) -> str:
    return "المرأة" if word == "امرأة" else "ال" + word


def tanween(word: str) -> str:
    """The indefinite accusative of a word that takes tanween: a written alif, mostly."""
    if word.endswith(("ة", "اء", "ى", "ات")):
        return word
    if word.endswith("يء"):
        return word[:-1] + "ئا"
    return word + "ا"


def dual(word: str, case: str) -> str:
    stem = word[:-1] + "ت" if word.endswith("ة") else word
    if word.endswith("ى"):
        stem = word[:-1] + "ي"
    elif word.endswith("يء"):
        stem = word[:-1] + "ئ"
    elif word.endswith("اء") and len(word) > 4:  # the feminine ending -ā', as in حمراء
        stem = word[:-1] + "و"
    return stem + ("ان" if case == "nom" else "ين")


def sound_plural(word: str, case: str) -> str:
    return word if case == "nom" else word[:-2] + "ين"


def noun_form(noun: Noun, number: str, case: str, definite: bool) -> str:
    if number == "d":
        stem = "أخو" if noun.en == "brother" else noun.ar
        word = dual(stem, case)
        if noun.ar == "امرأة" and definite:
            word = word[1:]  # المرأتان
    elif number == "p":
        word = sound_plural(noun.ar_pl, case) if noun.plural_kind == "sm" else noun.ar_pl
        if case == "acc" and not definite and noun.plural_kind == "b":
            word = tanween(word)
    else:
        word = tanween(noun.ar) if case == "acc" and not definite else noun.ar
    return with_article(word) if definite else word


def suffixed(noun: Noun, number: str, case: str, owner: str) -> str:
    """A noun with a possessive suffix: كتابي، سيارته، أصدقاؤنا، أخاهم."""
    suffix = SUFFIXES[owner]
    if noun.en == "brother" and number == "s":
        return "أخي" if owner == "I" else BROTHER[case] + suffix
    word = noun.ar_pl if number == "p" else noun.ar
    if word.endswith("ة"):
        word = word[:-1] + "ت"
    elif word.endswith("ى"):
        word = word[:-1] + "ا"
    elif word.endswith("اء"):
        seat = "ئ" if owner == "I" or case == "gen" else {"nom": "ؤ", "acc": "ء"}[case]
        word = word[:-1] + seat
    return word + suffix


def construct(noun: Noun, number: str, case: str) -> str:
    """The first term of an idafa: no article, no tanween, no final nun."""
    if noun.en == "brother" and number == "s":
        return BROTHER[case]
    form = noun_form(noun, number, case, definite=True)
    if noun.ar == "امرأة" and number == "s":
        return noun.ar
    form = form[2:]
    if number == "d" or (number == "p" and noun.plural_kind == "sm"):
        form = form[:-1]
    return form


def adjective_form(adjective: Adjective, agree: str, case: str, definite: bool) -> str:
    if agree == "ms":
        invariable = adjective.colour
        plain = case != "acc" or definite or invariable
        word = adjective.ms if plain else tanween(adjective.ms)
    elif agree == "fs":
        word = adjective.fs
    elif agree in ("md", "fd"):
        word = dual(adjective.ms if agree == "md" else adjective.fs, case)
    elif agree == "fp":
        word = adjective.fs[:-1] + "ات"
    else:
        word = adjective.mp
        if adjective.plural_kind == "sm":
            word = sound_plural(word, case)
        elif adjective.plural_kind == "b" and case == "acc" and not definite:
            word = tanween(word)
    return with_article(word) if definite else word


DEMONSTRATIVES = {
    ("this", "ms"): ("هذا", "هذا"),
    ("this", "fs"): ("هذه", "هذه"),
    ("this", "md"): ("هذان", "هذين"),
    ("this", "fd"): ("هاتان", "هاتين"),
    ("this", "mp"): ("هؤلاء", "هؤلاء"),
    ("this", "fp"): ("هؤلاء", "هؤلاء"),
    ("that", "ms"): ("ذلك", "ذلك"),
    ("that", "fs"): ("تلك", "تلك"),
    ("that", "mp"): ("أولئك", "أولئك"),
    ("that", "fp"): ("أولئك", "أولئك"),
}


def demonstrative(which: str, agree: str, case: str) -> str:
    nominative, oblique = DEMONSTRATIVES[which, agree]
    return nominative if case == "nom" else oblique


def past(verb: Verb, person: str) -> str:
    if person in ("I", "you"):
        return verb.past_i
    if person == "we":
        stem = verb.past_i[:-1]
        return stem + ("ا" if stem.endswith("ن") else "نا")
    return {"he": verb.past, "she": verb.past_she, "they": verb.past_they}[person]


def _prefixed(form: str, person: str) -> str:
    """Change the third person's ya to the prefix of `person`; أ + أ is written آ."""
    rest = form[1:]
    if person == "I":
        return "آ" + rest[1:] if rest.startswith("أ") else "أ" + rest
    return {"he": "ي", "she": "ت", "you": "ت", "we": "ن"}[person] + rest


def present(verb: Verb, person: str) -> str:
    return verb.present_they if person == "they" else _prefixed(verb.present, person)


def subjunctive(verb: Verb, person: str) -> str:
    """After أن and لن: written as the indicative, but the plural loses its nun."""
    return verb.present_they[:-1] + "ا" if person == "they" else _prefixed(verb.present, person)


def jussive(verb: Verb, person: str) -> str:
    """After لم and the prohibitive لا: hollow and defective verbs are shortened."""
    if person == "they":
        return subjunctive(verb, person)
    return _prefixed(verb.jussive, person)


def number_words(n: int, gender: str, case: str) -> str:
    """The number as it stands before a counted noun of `gender` (3 to 100)."""
    numbers = load().numbers

    def word(value: int) -> str:
        return numbers[value][1 if gender == "m" else 2]

    oblique = case != "nom"
    if n == 12:
        return word(12).replace("ا عشر", "ي عشر") if oblique else word(12)
    if n <= 19 or n == 100:
        return word(n)
    tens = numbers[n - n % 10][1]
    tens = sound_plural(tens, case)
    unit = n % 10
    if unit == 0:
        return tens
    if unit == 1:
        first = "إحدى" if gender == "f" else ("واحدا" if case == "acc" else "واحد")
    elif unit == 2:
        first = word(2)[:-2] + "ين" if oblique else word(2)
    elif gender == "f" and case == "acc":
        first = word(unit) + "ا"
    else:
        first = word(unit)
    return f"{first} و{tens}"


def counted_form(noun: Noun, n: int) -> str:
    """The noun after the number n: plural genitive, singular accusative or singular genitive."""
    last = n % 100
    if 3 <= last <= 10:
        return noun_form(noun, "p", "gen", definite=False)
    if last >= 11:
        return noun_form(noun, "s", "acc", definite=False)
    return noun_form(noun, "s", "gen", definite=False)
