"""Noun phrases, verb groups and clauses, built in both languages at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hala_tools.miniature import arabic, english
from hala_tools.miniature.lexicon import Adjective, Lexicon, Name, Noun, Verb

Item = TypeVar("Item")
PERSONS = ("I", "you", "he", "she", "we", "they")
PERSON_AGREE = {"I": "ms", "you": "ms", "he": "ms", "she": "fs", "we": "mp", "they": "mp"}


class Impossible(Exception):
    """The drawn words do not fit the template: draw again."""


@dataclass(frozen=True)
class Pair:
    """A piece of text in both languages."""

    en: str
    ar: str

    def __add__(self, other: Pair) -> Pair:
        return Pair(f"{self.en} {other.en}".strip(), f"{self.ar} {other.ar}".strip())


EMPTY = Pair("", "")


@dataclass(frozen=True)
class NP:
    en: str
    nom: str
    acc: str
    gen: str
    agree: str  # the key that adjectives and verbs agree with
    person: str = "he"  # the pronoun that could stand for it
    pronoun: bool = False
    human: bool = False
    definite: bool = True
    noun: Noun | None = None
    number: str = "s"

    @property
    def unclear_oblique(self) -> bool:
        """السائقين is `the drivers` and `the two drivers`: such duals stand as subjects only."""
        sound = self.noun is not None and self.noun.plural_kind == "sm"
        return self.number == "d" and sound and not self.nom.startswith("ه")

    @property
    def singular(self) -> bool:
        return self.person in ("I", "he", "she", "you")

    @property
    def feminine(self) -> bool:
        return self.agree[0] == "f"


class Context:
    """A random source that records which lexicon words a sentence used."""

    def __init__(self, lexicon: Lexicon, rng: random.Random) -> None:
        self.lexicon = lexicon
        self.rng = rng
        self.words: list[str] = []

    def one(self, options: Sequence[Item]) -> Item:
        return options[int(self.rng.random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def word(self, options: Sequence[Item]) -> Item:
        """Pick a lexicon entry and record it."""
        if not options:
            raise Impossible
        item = self.one(options)
        self.words.append(item.key)
        return item

    def noun(self, *classes: str) -> Noun:
        return self.word(self.lexicon.nouns_of(*classes))

    def verb(self, en: str) -> Verb:
        verb = self.lexicon.verbs[en]
        self.words.append(verb.key)
        return verb

    def adjective(
        self, noun: Noun, *, comparative: bool = False, plural: bool = False
    ) -> Adjective:
        fitting = [
            a
            for a in self.lexicon.adjectives
            if a.classes & noun.classes
            and (not comparative or a.ar_more)
            and (not plural or not noun.human or a.mp)
            and not (noun.mass and a.en in ("big", "small"))
            and not (comparative and noun.human and a.en == "new")
        ]
        return self.word(fitting)


def pronoun(person: str) -> NP:
    word = arabic.PRONOUNS[person]
    return NP(person, word, word, word, PERSON_AGREE[person], person, pronoun=True, human=True)


def name(entry: Name) -> NP:
    accusative = entry.ar + "ا" if entry.tanween else entry.ar
    agree = "fs" if entry.gender == "f" else "ms"
    person = "she" if agree == "fs" else "he"
    return NP(entry.en, entry.ar, accusative, entry.ar, agree, person, human=entry.kind == "person")


def agreement(noun: Noun, number: str) -> str:
    if number == "p" and not noun.human:
        return "fs"
    return noun.gender + number


def _person(noun: Noun, number: str) -> str:
    if number == "s":
        return "she" if noun.gender == "f" else "he"
    return "they"


def noun_phrase(
    noun: Noun,
    number: str = "s",
    det: str = "the",
    adjective: Adjective | None = None,
    ordinal: tuple[str, str, str] | None = None,
) -> NP:
    """det: a (or none, in the plural and for mass nouns), the, this, that, or an owner's person."""
    if number == "p" and not noun.en_pl:
        raise Impossible
    if adjective and number == "p" and noun.human and noun.gender == "m" and not adjective.mp:
        raise Impossible
    agree = agreement(noun, number)
    words = noun.en if number == "s" else noun.en_pl
    if adjective:
        words = f"{adjective.en} {words}"
    if ordinal:
        words = f"{ordinal[0]} {words}"
    if number == "d":
        words = f"two {words}"
    if det == "a":
        en = english.article(words) if number == "s" and not noun.mass else words
    elif det in english.POSSESSIVES:
        en = f"{english.POSSESSIVES[det]} {words}"
    elif det in ("this", "that"):
        plural = {"this": "these", "that": "those"}[det]
        en = f"{det if number == 's' else plural} {words}"
    else:
        en = f"the {words}"
    forms = {}
    for case in ("nom", "acc", "gen"):
        if det in english.POSSESSIVES:
            text = arabic.suffixed(noun, number, case, det)
        else:
            text = arabic.noun_form(noun, number, case, det != "a")
        if ordinal:
            text += " ال" + ordinal[1 if agree[0] == "m" else 2]
        if adjective:
            text += " " + arabic.adjective_form(adjective, agree, case, det != "a")
        if det in ("this", "that"):
            text = f"{arabic.demonstrative(det, agree, case)} {text}"
        forms[case] = text
    person = _person(noun, number)
    return NP(
        en,
        **forms,
        agree=agree,
        person=person,
        human=noun.human,
        definite=det != "a",
        noun=noun,
        number=number,
    )


def counted(noun: Noun, n: int, adjective: Adjective | None = None, digits: bool = False) -> NP:
    """`five new books`, `25 books`: the number decides the noun's case and number."""
    if n == 2 and not digits:
        return noun_phrase(noun, "d", "a", adjective)
    if n % 100 in (1, 2) or (noun.gender == "f" and n > 20 and n % 10 == 8 and not digits):
        raise Impossible
    last = n % 100
    words = noun.en_pl if not adjective else f"{adjective.en} {noun.en_pl}"
    en = f"{n if digits else english.number_words(n)} {words}"
    few = 3 <= last <= 10
    form = arabic.counted_form(noun, n)
    if adjective:
        case = "acc" if last >= 11 else "gen"
        agree = agreement(noun, "p") if few else noun.gender + "s"
        form += " " + arabic.adjective_form(adjective, agree, case, definite=False)
    forms = {}
    for case in ("nom", "acc", "gen"):
        number = str(n) if digits else arabic.number_words(n, noun.gender, case)
        forms[case] = f"{number} {form}"
    agree = noun.gender + ("p" if noun.human else "s")
    return NP(en, **forms, agree=agree, person="they", human=noun.human, definite=False, noun=noun)


def oblique(np: NP) -> NP:
    """Admit a phrase to an accusative or genitive position."""
    if np.unclear_oblique:
        raise Impossible
    return np


def owned_by(noun: Noun, owner: NP, adjective: Adjective | None = None, number: str = "s") -> NP:
    """Idafa: `Samir's new car`, `the door of the house`."""
    words = noun.en if number == "s" else noun.en_pl
    if adjective:
        words = f"{adjective.en} {words}"
    en = f"{owner.en}'s {words}" if owner.human else f"the {words} of {owner.en}"
    agree = agreement(noun, number)
    forms = {}
    for case in ("nom", "acc", "gen"):
        text = f"{arabic.construct(noun, number, case)} {owner.gen}"
        if adjective:
            text += " " + arabic.adjective_form(adjective, agree, case, definite=True)
        forms[case] = text
    return NP(en, **forms, agree=agree, person=_person(noun, number), human=noun.human, noun=noun)


def both(first: NP, second: NP) -> NP:
    """`Samir and Ali`; agrees as a plural, the verb before it with the first."""
    return NP(
        f"{first.en} and {second.en}",
        f"{first.nom} و{second.nom}",
        f"{first.acc} و{second.acc}",
        f"{first.gen} و{second.gen}",
        agree=first.agree[0] + "d",
        person="they",
        human=True,
    )


def verb_group(verb: Verb, person: str, tense: str, negative: bool) -> str:
    """The Arabic verb with its particle, for a subject that stands as `person`."""
    if tense in "ng":
        return ("لا " if negative else "") + arabic.present(verb, person)
    if tense == "p":
        return "لم " + arabic.jussive(verb, person) if negative else arabic.past(verb, person)
    if tense == "f":
        if negative:
            return "لن " + arabic.subjunctive(verb, person)
        return "س" + arabic.present(verb, person)
    raise ValueError(f"no such tense: {tense}")


def verb_person(subject: NP) -> str:
    """A verb before a lexical subject is singular and agrees in gender alone."""
    if subject.pronoun:
        return subject.person
    return "she" if subject.feminine else "he"


def ambiguous_past(verb: Verb, person: str) -> bool:
    """`They read` may be present or past in English: only the past is generated."""
    return verb.en == verb.en_past and person not in ("he", "she")


def full_person(subject: NP) -> str:
    """A verb after its subject agrees in full; dual and feminine plural forms are not stored."""
    if subject.pronoun:
        return subject.person
    if subject.agree not in ("ms", "fs", "mp"):
        raise Impossible
    return {"ms": "he", "fs": "she", "mp": "they"}[subject.agree]


# The first person is left out in Arabic, since the verb shows it; in questions every pronoun is.
SILENT = ("I", "we")


def statement(
    subject: NP, verb: Verb, tense: str, negative: bool, rest: Pair = EMPTY, asked: bool = False
) -> Pair:
    """Subject, verb and what follows: `the boys did not write a letter`, لم يكتب الأولاد رسالة."""
    if tense == "n" and not (asked or negative) and ambiguous_past(verb, subject.person):
        raise Impossible
    if asked:
        en = english.question(verb, subject.en, subject.person, tense)
    else:
        en = f"{subject.en} {english.predicate(verb, subject.person, tense, negative)}"
    if tense == "w":
        doing = arabic.present(verb, full_person(subject))
        group = verb_group(arabic.BE, verb_person(subject), "p", negative)
        parts = [group, doing] if subject.pronoun else [group, subject.nom, doing]
    else:
        group = verb_group(verb, verb_person(subject), tense, negative)
        parts = [group] if subject.pronoun else [group, subject.nom]
    # أغلق الباب is both a command and the first person: there the pronoun must be written.
    looks_like_command = (
        subject.person == "I" and tense in "ng" and not negative
        and verb.imperative == arabic.present(verb, "I")
    )  # fmt: skip
    if subject.pronoun and not asked and (subject.person not in SILENT or looks_like_command):
        parts.insert(0, subject.nom)
    return Pair(en, " ".join(parts)) + rest


def following(subject: NP, verb: Verb, tense: str, rest: Pair = EMPTY) -> Pair:
    """A second verb of the same subject, which agrees in full."""
    if tense == "n" and ambiguous_past(verb, subject.person):
        raise Impossible
    group = verb_group(verb, full_person(subject), tense, False)
    return Pair(english.predicate(verb, subject.person, tense, False), group) + rest


def copular(
    subject: NP, predicate: dict[str, str], en: str, tense: str, negative: bool, asked: bool = False
) -> Pair:
    """`X is Y` with Y's nominative and accusative; tenses n, p, f."""
    be = english.be(subject.person, tense)
    if asked:
        first = be.split(" ")[0]
        text = f"{first} {subject.en} {'be ' if tense == 'f' else ''}{en}"
    elif negative:
        text = f"{subject.en} {'will not be' if tense == 'f' else be + ' not'} {en}"
    else:
        text = f"{subject.en} {be} {en}"
    if tense == "n" and not negative:
        return Pair(text, f"{subject.nom} {predicate['nom']}")
    person = verb_person(subject)
    group = not_be(person) if tense == "n" else verb_group(arabic.BE, person, tense, negative)
    parts = [group] if subject.pronoun else [group, subject.nom]
    if subject.pronoun and not asked and subject.person not in SILENT:
        parts.insert(0, subject.nom)
    return Pair(text, " ".join([*parts, predicate["acc"]]))


def not_be(person: str) -> str:
    return {
        "I": "لست", "you": "لست", "he": "ليس", "she": "ليست", "we": "لسنا", "they": "ليسوا",
    }[person]  # fmt: skip


def adjective_predicate(adjective: Adjective, subject: NP) -> dict[str, str]:
    agree = subject.agree
    if agree == "mp" and not adjective.mp:
        raise Impossible
    return {
        case: arabic.adjective_form(adjective, agree, case, definite=False)
        for case in ("nom", "acc")
    }
