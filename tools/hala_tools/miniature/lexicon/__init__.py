"""The lexicon: readable tables, one part of speech a file, parsed into frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hala_tools.miniature.lexicon import adjectives, function_words, names, nouns, verbs


@dataclass(frozen=True)
class Noun:
    en: str
    en_pl: str
    ar: str
    ar_pl: str
    gender: str
    plural_kind: str
    classes: frozenset[str]

    @property
    def key(self) -> str:
        return f"n:{self.en}"

    @property
    def human(self) -> bool:
        return bool(self.classes & {"person", "family"})

    @property
    def mass(self) -> bool:
        return "mass" in self.classes


@dataclass(frozen=True)
class Adjective:
    en: str
    ms: str
    fs: str
    mp: str
    plural_kind: str
    en_more: str
    ar_more: str
    classes: frozenset[str]

    @property
    def key(self) -> str:
        return f"a:{self.en}"

    @property
    def colour(self) -> bool:
        return self.en in {"red", "blue", "green", "yellow", "white", "black"}


@dataclass(frozen=True)
class Verb:
    en: str
    en_s: str
    en_past: str
    en_part: str
    en_ing: str
    past: str
    past_i: str
    past_she: str
    past_they: str
    present: str
    present_they: str
    jussive: str
    imperative: str
    en_prep: str
    ar_prep: str
    classes: frozenset[str]

    @property
    def key(self) -> str:
        return f"v:{self.en}"


@dataclass(frozen=True)
class Name:
    """A person, city, country or language."""

    en: str
    ar: str
    kind: str
    gender: str = "f"
    tanween: bool = False

    @property
    def key(self) -> str:
        return f"p:{self.en}"


@dataclass(frozen=True, eq=False)
class Lexicon:
    nouns: tuple[Noun, ...]
    adjectives: tuple[Adjective, ...]
    verbs: dict[str, Verb]
    people: tuple[Name, ...]
    countries: tuple[tuple[Name, Name], ...]
    cities: tuple[Name, ...]
    languages: tuple[Name, ...]
    adverbs: tuple[tuple[str, str, str], ...]
    places: tuple[tuple[str, str, frozenset[str]], ...]
    days: tuple[tuple[str, str], ...]
    months: tuple[tuple[str, str], ...]
    numbers: dict[int, tuple[str, str, str]]
    ordinals: tuple[tuple[str, str, str, str], ...]

    def nouns_of(self, *classes: str) -> tuple[Noun, ...]:
        return _nouns_of(self, frozenset(classes))

    def noun(self, en: str) -> Noun:
        return next(n for n in self.nouns if n.en == en)

    def adjective(self, en: str) -> Adjective:
        return next(a for a in self.adjectives if a.en == en)

    def entries(self) -> list[tuple[str, str, str]]:
        """Every entry as (part of speech, English, Arabic), for counting and checking."""
        rows = [("noun", n.en, n.ar) for n in self.nouns]
        rows += [("adjective", a.en, a.ms) for a in self.adjectives]
        rows += [("verb", v.en, v.past) for v in self.verbs.values()]
        rows += [("person", p.en, p.ar) for p in self.people]
        rows += [("country", c.en, c.ar) for c, _ in self.countries]
        rows += [("city", c.en, c.ar) for c in self.cities]
        rows += [("language", c.en, c.ar) for c in self.languages]
        rows += [("adverb", en, ar) for en, ar, _ in self.adverbs]
        rows += [("preposition", en, ar) for en, ar, _ in self.places]
        rows += [("day", *day) for day in self.days]
        rows += [("month", *month) for month in self.months]
        rows += [("number", en, m) for en, m, _ in self.numbers.values()]
        rows += [("ordinal", en, m) for en, m, _, _ in self.ordinals]
        return rows


def _rows(table: str, columns: int) -> list[list[str]]:
    rows = [line.split(";") for line in table.strip().splitlines()]
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"lexicon row needs {columns} columns: {';'.join(row)}")
    return rows


def _classes(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _verb(row: list[str]) -> Verb:
    """Fill the regular forms: a hyphen is the form of a sound verb."""
    english, past, past_i, past_she, past_they, present, present_they, jussive, *rest = row
    imperative, en_prep, ar_prep, classes = rest

    def regular(form: str, default: str) -> str:
        return default if form == "-" else form

    return Verb(
        *english.split(" "),
        past=past,
        past_i=regular(past_i, past + "ت"),
        past_she=regular(past_she, past + "ت"),
        past_they=regular(past_they, past + "وا"),
        present=present,
        present_they=regular(present_they, present + "ون"),
        jussive=regular(jussive, present),
        imperative=imperative,
        en_prep=en_prep,
        ar_prep=ar_prep,
        classes=_classes(classes),
    )


@cache
def _nouns_of(lexicon: Lexicon, classes: frozenset[str]) -> tuple[Noun, ...]:
    return tuple(n for n in lexicon.nouns if n.classes & classes)


@cache
def load() -> Lexicon:
    countries = tuple(
        (Name(en, ar, "country"), Name(capital, capital_ar, "city"))
        for en, ar, capital, capital_ar in _rows(names.COUNTRIES, 4)
    )
    more_cities = tuple(Name(en, ar, "city") for en, ar in _rows(names.CITIES, 2))
    return Lexicon(
        nouns=tuple(Noun(*r[:6], _classes(r[6])) for r in _rows(nouns.TABLE, 7)),
        adjectives=tuple(Adjective(*r[:7], _classes(r[7])) for r in _rows(adjectives.TABLE, 8)),
        verbs={v.en: v for v in map(_verb, _rows(verbs.TABLE, 12))},
        people=tuple(
            Name(en, ar, "person", gender, tanween == "t")
            for en, ar, gender, tanween in _rows(names.PEOPLE, 4)
        ),
        countries=countries,
        cities=tuple(capital for _, capital in countries) + more_cities,
        languages=tuple(Name(en, ar, "language") for en, ar in _rows(names.LANGUAGES, 2)),
        adverbs=tuple((en, ar, t) for en, ar, t in _rows(function_words.ADVERBS, 3)),
        places=tuple((en, ar, _classes(c)) for en, ar, c in _rows(function_words.PLACES, 3)),
        days=tuple((en, ar) for en, ar in _rows(function_words.DAYS, 2)),
        months=tuple((en, ar) for en, ar in _rows(function_words.MONTHS, 2)),
        numbers={int(n): (en, m, f) for n, en, m, f in _rows(function_words.NUMBERS, 4)},
        ordinals=tuple((en, m, f, hour) for en, m, f, hour in _rows(function_words.ORDINALS, 4)),
    )
