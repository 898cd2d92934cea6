"""Templates without a lexical verb: descriptions, professions, pointing, places."""

from __future__ import annotations

from hala_tools.miniature import arabic, english
from hala_tools.miniature.draw import (
    definite_subject,
    location,
    maybe_adjective,
    owner_name,
    some,
    thing,
)
from hala_tools.miniature.lexicon import Adjective, Noun
from hala_tools.miniature.phrases import (
    NP,
    PERSONS,
    Context,
    Impossible,
    Pair,
    adjective_predicate,
    agreement,
    copular,
    noun_phrase,
    owned_by,
    pronoun,
)
from hala_tools.miniature.registry import asked, polarity, said, template

DESCRIBED = (
    "animal",
    "vehicle",
    "place",
    "indoor",
    "nature",
    "thing",
    "plant",
    "clothes",
    "town",
    "known",
    "matter",
    "seen",
    "heard",
    "written",
    "opened",
    "way",
    "event",
    "sky",
)


def definite_thing(g: Context, noun: Noun | None = None) -> NP:
    noun = noun or g.noun(*DESCRIBED)
    np = thing(g, noun, indefinite=False)
    if not np.definite:
        raise Impossible
    return np


def bare(g: Context, noun: Noun, numbers: str = "ssspd") -> NP:
    """A definite noun without an adjective, ready to be described."""
    number = g.one(numbers) if noun.en_pl else "s"
    if "owned" in noun.classes and number == "s" and g.chance(0.4):
        if g.chance(0.35):
            return owned_by(noun, owner_name(g))
        return noun_phrase(noun, number, g.one(PERSONS))
    return noun_phrase(
        noun, number, g.one(("the", "the", "this", "that" if number != "d" else "this"))
    )


def describe(g: Context, human: bool) -> tuple[NP, Adjective]:
    if human:
        who = definite_subject(g, pronouns=0.3)
        person = g.lexicon.noun("man")
        return who, g.adjective(person, plural=True)
    noun = g.noun(*DESCRIBED, "food", "drink")
    return bare(g, noun), g.adjective(noun)


TENSE_WORDS = {
    "n": (("today", "اليوم"), ("now", "الآن")),
    "p": (("yesterday", "أمس"), ("last week", "الأسبوع الماضي")),
    "f": (("tomorrow", "غدا"), ("next week", "الأسبوع القادم")),
}


# States that pass, so that `today` and `because` make sense with them.
PASSING = ("happy", "sad", "busy", "tired", "sick", "angry", "hungry")


@template(16)
def description(g: Context) -> tuple[str, Pair]:
    human = g.chance(0.45)
    who, adjective = describe(g, human)
    tense, negative, question = g.one("nnnnppf"), g.chance(0.25), g.chance(0.2)
    if question:
        negative = False
        if who.pronoun and who.person in ("I", "we"):
            raise Impossible
    lasting = adjective.en not in PASSING
    if adjective.en[0].isupper() and tense != "n":
        raise Impossible
    predicate = adjective_predicate(adjective, who)
    en = adjective.en
    if not (negative or question or adjective.en[0].isupper()) and g.chance(0.25):
        en = f"very {en}"
        predicate = {case: f"{form} جدا" for case, form in predicate.items()}
    pair = copular(who, predicate, en, tense, negative, asked=question)
    if not lasting and g.chance(0.4):
        pair += Pair(*g.one(TENSE_WORDS[tense]))
    kind = "human" if human else "thing"
    if question:
        return f"{kind}.{tense}.asked", asked(Pair("", "هل") + pair)
    return f"{kind}.{tense}.{polarity(negative)}", said(pair)


def _profession(g: Context, who: NP) -> tuple[Noun, dict[str, str], str]:
    """A noun predicate that agrees with `who`, feminine for a woman."""
    noun = g.noun("job")
    plural = who.agree in ("mp",)
    feminine = who.agree == "fs"
    if who.agree in ("md", "fd", "fp"):
        raise Impossible
    if feminine:
        shown = Noun(noun.en, noun.en_pl, noun.ar + "ة", noun.ar + "ات", "f", "sf", noun.classes)
    else:
        shown = noun
    adjective = maybe_adjective(g, noun, 0.3, plural)
    np = noun_phrase(shown, "p" if plural else "s", "a", adjective)
    return noun, {"nom": np.nom, "acc": np.acc}, np.en


@template(6)
def profession(g: Context) -> tuple[str, Pair]:
    who = definite_subject(g, pronouns=0.35)
    if who.noun and "job" in who.noun.classes:
        raise Impossible
    _, predicate, en = _profession(g, who)
    tense, negative, question = g.one("nnnpf"), g.chance(0.25), g.chance(0.2)
    if question:
        if who.pronoun:
            who = pronoun("you") if tense != "n" and who.agree == "ms" else who
            if tense == "n" and who.person in ("I", "we"):
                raise Impossible
            if tense != "n" and who.person != "you":
                raise Impossible
        pair = copular(who, predicate, en, tense, False, asked=True)
        return f"{tense}.asked", asked(Pair("", "هل") + pair)
    return f"{tense}.{polarity(negative)}", said(copular(who, predicate, en, tense, negative))


@template(7)
def this_is(g: Context) -> tuple[str, Pair]:
    """`This is a new book`, `these are my books`, `is this your book?`"""
    noun = g.noun(*DESCRIBED, "food", "job", "family")
    number = g.one("sssp") if noun.en_pl else "s"
    det = "a"
    if noun.classes & {"owned", "family"} and (g.chance(0.5) or "family" in noun.classes):
        det = g.one(PERSONS)
    if number == "p" and det != "a" and noun.plural_kind == "sm":
        raise Impossible
    adjective = (
        maybe_adjective(g, noun, 0.5, number == "p") if "family" not in noun.classes else None
    )
    np = noun_phrase(noun, number, det, adjective)
    if det == "a" and "owned" in noun.classes and number == "s" and g.chance(0.2):
        np = owned_by(noun, owner_name(g))
    which = g.one(("this", "this", "that"))
    plural = {"this": "these", "that": "those"}[which]
    pointer = arabic.demonstrative(which, agreement(noun, number), "nom")
    en_be = f"{which} is" if number == "s" else f"{plural} are"
    style = g.one(("pos", "pos", "pos", "neg", "asked"))
    if style == "asked":
        words = en_be.split(" ")
        return f"{number}.asked", asked(
            Pair(f"{words[1]} {words[0]} {np.en}", f"هل {pointer} {np.nom}")
        )
    if style == "neg":
        feminine = agreement(noun, number)[0] == "f"
        pair = Pair(f"{en_be} not {np.en}", f"{'ليست' if feminine else 'ليس'} {pointer} {np.acc}")
        if number == "p" and noun.human:
            raise Impossible
        return f"{number}.neg", said(pair)
    return f"{number}.pos", said(Pair(f"{en_be} {np.en}", f"{pointer} {np.nom}"))


@template(7)
def where_it_is(g: Context) -> tuple[str, Pair]:
    style = g.one(("pos", "pos", "pos", "neg", "where", "asked"))
    if g.chance(0.5):
        who = definite_subject(g, pronouns=0.4)
    else:
        who = bare(g, g.noun("thing", "animal", "vehicle"), "sssp")
    if style == "where":
        if who.pronoun and who.person in ("I", "we"):
            raise Impossible
        tense = g.one("nnp") if not who.pronoun else "n"
        be = english.be(who.person, tense)
        was = "" if tense == "n" else ("كانت " if who.feminine else "كان ")
        return f"where.{tense}", asked(Pair(f"where {be} {who.en}", f"أين {was}{who.nom}"))
    spot = location(g, who.noun)
    if who.noun and who.noun.en in spot.en:
        raise Impossible
    predicate = {"nom": spot.ar, "acc": spot.ar}
    tense = g.one("nnpf")
    if style == "asked":
        if who.pronoun:
            raise Impossible
        pair = copular(who, predicate, spot.en, "n", False, asked=True)
        return "asked", asked(Pair("", "هل") + pair)
    pair = copular(who, predicate, spot.en, tense, style == "neg")
    return f"{tense}.{style}", said(pair)


@template(7)
def there_is(g: Context) -> tuple[str, Pair]:
    noun = g.noun("thing", "animal", "person", "plant", "food", "place", "seat", "mass")
    spot = location(g, noun)
    if noun.en in spot.en:
        raise Impossible
    if not noun.en_pl:
        np = noun_phrase(noun, "s", "a", maybe_adjective(g, noun, 0.3, False))
    elif g.chance(0.35):
        np = some(g, noun)
    else:
        number = g.one("sspd")
        np = noun_phrase(noun, number, "a", maybe_adjective(g, noun, 0.4, number == "p"))
    be = "is" if np.person in ("he", "she") else "are"
    style = g.one(("pos", "pos", "pos", "past", "no", "asked"))
    if style == "no":
        number = "p" if noun.en_pl else "s"
        np = noun_phrase(noun, number, "a", maybe_adjective(g, noun, 0.3, number == "p"))
        be = "is" if number == "s" else "are"
        verb = "لا توجد" if np.feminine else "لا يوجد"
        return "no", said(Pair(f"there {be} no {np.en}", f"{verb} {np.nom}") + spot)
    if style == "asked":
        return "asked", asked(Pair(f"{be} there {np.en}", f"هل هناك {np.nom}") + spot)
    if style == "past":
        be = "was" if be == "is" else "were"
        was = "كانت" if np.feminine else "كان"
        return "past", said(Pair(f"there {be} {np.en}", f"{was} هناك {np.nom}") + spot)
    return "pos", said(Pair(f"there {be} {np.en}", f"هناك {np.nom}") + spot)
