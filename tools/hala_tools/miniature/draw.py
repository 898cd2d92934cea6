"""Drawing the parts of a sentence: subjects, complements, adverbials."""

from __future__ import annotations

from hala_tools.miniature.lexicon import Adjective, Noun, Verb
from hala_tools.miniature.phrases import (
    EMPTY,
    NP,
    PERSONS,
    Context,
    Impossible,
    Pair,
    both,
    counted,
    name,
    noun_phrase,
    oblique,
    owned_by,
    pronoun,
    statement,
)

HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve")  # fmt: skip
ACTIONS_WITHOUT = {"want", "can", "give", "put", "say", "believe", "love", "speak", "learn"}
STATIVE = {"know", "love", "need", "want", "can", "believe", "forget", "remember", "see", "hear",
           "understand", "respect", "lose", "find", "succeed", "receive"}  # fmt: skip


def person_name(g: Context, gender: str = "") -> NP:
    people = g.lexicon.people
    return name(g.word([p for p in people if p.gender == gender] if gender else people))


def maybe_adjective(g: Context, noun: Noun, probability: float, plural: bool) -> Adjective | None:
    if not g.chance(probability):
        return None
    return g.adjective(noun, plural=plural)


def person_noun(g: Context, *, numbers: str = "sssppd", adjective: float = 0.2) -> NP:
    noun = g.noun("person")
    number = g.one(numbers)
    fitting = maybe_adjective(g, noun, adjective, plural=number == "p")
    return noun_phrase(noun, number, g.one(("the", "the", "the", "this", "a")), fitting)


def relative(g: Context, owner: str | None = None) -> NP:
    noun = g.noun("family")
    number = "p" if noun.en_pl and g.chance(0.25) else "s"
    return noun_phrase(noun, number, owner or g.one(PERSONS))


def acquaintance(g: Context) -> NP:
    noun = g.word([g.lexicon.noun(w) for w in ("friend", "neighbour", "guest")])
    return noun_phrase(noun, g.one("ssp"), g.one(PERSONS))


def subject(
    g: Context, *, pronouns: float = 0.35, numbers: str = "sssppd", pairs: bool = True
) -> NP:
    roll = g.rng.random()
    if roll < pronouns:
        return pronoun(g.one(PERSONS))
    roll = (roll - pronouns) / (1 - pronouns)
    if roll < 0.35:
        return person_name(g)
    if roll < 0.52:
        return relative(g)
    if roll < 0.6:
        return acquaintance(g)
    if roll < 0.66 and pairs:
        first, second = person_name(g), person_name(g)
        if first.en == second.en:
            raise Impossible
        return both(first, second)
    return person_noun(g, numbers=numbers)


def definite_subject(g: Context, *, pronouns: float = 0.35, numbers: str = "sssppd") -> NP:
    """A subject that may open a nominal sentence."""
    who = subject(g, pronouns=pronouns, numbers=numbers, pairs=False)
    if not who.definite:
        raise Impossible
    return who


def asked_subject(g: Context) -> NP:
    """A subject for questions, where the pronoun is silent and so must be clear from the verb."""
    if g.chance(0.5):
        return pronoun(g.one(("you", "you", "he", "they")))
    return subject(g, pronouns=0.0)


def owner_name(g: Context) -> NP:
    if g.chance(0.7):
        return person_name(g)
    return noun_phrase(g.noun("person"), "s", "the")


def thing(g: Context, noun: Noun, *, indefinite: bool = True) -> NP:
    """A noun phrase of one noun, with some determiner, number and adjective."""
    return oblique(_thing(g, noun, indefinite))


def _thing(g: Context, noun: Noun, indefinite: bool) -> NP:
    if noun.mass or not noun.en_pl:
        dets = ("a", "a", "the") if noun.mass and indefinite else ("the",)
        return noun_phrase(noun, "s", g.one(dets), maybe_adjective(g, noun, 0.3, False))
    roll = g.rng.random()
    if roll < 0.35 and "owned" in noun.classes:
        if g.chance(0.3):
            return owned_by(noun, owner_name(g), maybe_adjective(g, noun, 0.15, False))
        number = "p" if g.chance(0.2) and not noun.ar_pl.endswith("ى") else "s"
        adjective = maybe_adjective(g, noun, 0.3, number == "p")
        return noun_phrase(noun, number, g.one(PERSONS), adjective)
    if 0.35 < roll < 0.5 and indefinite:
        return some(g, noun)
    number = g.one("sssspd")
    det = g.one(("a", "a", "the", "the", "this", "that")) if indefinite else g.one(("the", "this"))
    if det == "that" and number == "d":
        det = "this"
    return noun_phrase(noun, number, det, maybe_adjective(g, noun, 0.35, number == "p"))


def some(g: Context, noun: Noun) -> NP:
    """A counted noun."""
    digits = g.chance(0.35)
    n = g.rng.randint(3, 10) if g.chance(0.6) else g.rng.randint(11, 100)
    return counted(noun, n, maybe_adjective(g, noun, 0.2, True), digits)


def city(g: Context) -> NP:
    return name(g.word(g.lexicon.cities))


def country(g: Context) -> NP:
    return name(g.word([c for c, _ in g.lexicon.countries]))


def somewhere(g: Context) -> NP:
    return city(g) if g.chance(0.5) else country(g)


def complement(g: Context, verb: Verb) -> Pair:
    """The object of a verb, or its preposition and noun phrase."""
    classes = verb.classes
    if "none" in classes:
        return EMPTY
    plain = [c for c in classes if c not in ("names", "cities", "family", "generic")]
    plain.sort()
    roll = g.rng.random()
    if "generic" in classes:
        np = beloved(g)
    elif "names" in classes and roll < 0.3:
        np = person_name(g)
    elif "cities" in classes and roll < 0.5:
        np = somewhere(g)
    elif "family" in classes and roll < 0.5:
        np = relative(g)
    else:
        noun = g.noun(*plain)
        if verb.en in {"live", "work", "travel"}:
            np = noun_phrase(
                noun, "s", g.one(("a", "the", "this")), maybe_adjective(g, noun, 0.4, False)
            )
        elif verb.ar_prep and verb.en not in {"search", "need", "listen", "think"}:
            det = g.one(("the", "the", "this", "a"))
            if "owned" in noun.classes and g.chance(0.2):
                det = g.one(PERSONS)
            np = noun_phrase(noun, "s", det, maybe_adjective(g, noun, 0.3, False))
        else:
            np = thing(g, noun)
    if verb.ar_prep:
        return Pair(f"{verb.en_prep} {np.en}".strip(), f"{verb.ar_prep} {np.gen}")
    return Pair(f"{verb.en_prep} {np.en}".strip(), np.acc)


def beloved(g: Context) -> NP:
    """What one loves: a kind, definite in Arabic (القهوة، القطط), or one's own."""
    roll = g.rng.random()
    if roll < 0.25:
        return person_name(g)
    if roll < 0.4:
        return relative(g)
    noun = g.noun(
        "drink", "topic", "animal", "food", "clothes", "plant", "read", "heard", "generic"
    )
    mass = not noun.en_pl
    np = noun_phrase(noun, "s" if mass else "p", "the")
    return NP(np.en.removeprefix("the "), np.nom, np.acc, np.gen, np.agree, np.person, noun=noun)


def clock(g: Context, *, exact: bool = False) -> Pair:
    """`seven o'clock`, `half past seven`, `quarter to seven`."""
    index = g.rng.randrange(12)
    hour = "الساعة " + g.lexicon.ordinals[index][3]
    if exact or g.chance(0.5):
        return Pair(f"{HOURS[index]} o'clock", hour)
    en, ar = g.one(
        (("half past", "والنصف"), ("quarter past", "والربع"), ("quarter to", "إلا ربعا"))
    )
    return Pair(f"{en} {HOURS[index]}", f"{hour} {ar}")


def at_time(g: Context) -> Pair:
    time = clock(g)
    return Pair(f"at {time.en}", f"في {time.ar}")


def on_day(g: Context) -> Pair:
    en, ar = g.one(g.lexicon.days)
    return Pair(f"on {en}", f"يوم {ar}")


def on_date(g: Context) -> Pair:
    en, ar = g.one(g.lexicon.months)
    day = g.rng.randint(1, 28)
    if g.chance(0.6):
        year = g.rng.randint(1950, 2030)
        return Pair(f"on {day} {en} {year}", f"في {day} {ar} {year}")
    return Pair(f"on {day} {en}", f"في {day} {ar}")


def in_year(g: Context) -> Pair:
    year = g.rng.randint(1900, 2030)
    return Pair(f"in {year}", f"في عام {year}")


def adverbial(g: Context, tense: str) -> Pair:
    """When: never two tenses with the same Arabic, so `now` always goes with the progressive."""
    if tense == "g":
        return Pair("now", "الآن")
    if tense == "w" or g.chance(0.55):
        return EMPTY
    roll = g.rng.random()
    if roll < 0.15:
        return at_time(g)
    if roll < 0.27 and tense != "n":
        return on_day(g)
    if roll < 0.4 and tense == "p":
        return on_date(g)
    if roll < 0.45 and tense == "p":
        return in_year(g)
    fitting = [(en, ar) for en, ar, tenses in g.lexicon.adverbs if tense in tenses]
    return Pair(*g.one(fitting))


def action(g: Context, *, imperative: bool = False) -> Verb:
    verbs = [
        v
        for v in g.lexicon.verbs.values()
        if v.en not in ACTIONS_WITHOUT and (v.imperative or not imperative)
    ]
    return g.word(verbs)


def tense_for(g: Context, verb: Verb, options: str = "nnppppfgw") -> str:
    tense = g.one(options)
    if tense in "gw" and verb.en in STATIVE:
        return "p"
    return tense


def clause(
    g: Context, who: NP, verb: Verb, tense: str, negative: bool, asked: bool = False
) -> Pair:
    rest = complement(g, verb) + adverbial(g, tense)
    return statement(who, verb, tense, negative, rest, asked)


def location(g: Context, what: Noun | None = None) -> Pair:
    """`on the table`, `near my house`; only small things stand on or under others."""
    large = what is None or not what.classes & {"thing", "food", "clothes", "small"}
    large = large or bool(what.classes & {"vehicle"})
    en, ar, classes = g.one(
        [p for p in g.lexicon.places if not large or p[0] not in ("on", "under")]
    )
    if large:
        classes = classes - {"container"}
        if what is not None and en == "in" and what.classes & {"place", "vehicle"}:
            raise Impossible
    noun = g.noun(*sorted(classes))
    np = noun_phrase(
        noun,
        "s",
        g.one(("the", "the", "this"))
        if "owned" not in noun.classes
        else g.one(("the", "the", *PERSONS)),
    )
    return Pair(f"{en} {np.en}", f"{ar} {np.gen}")
