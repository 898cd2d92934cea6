"""Templates of instruction and answer, lists, dialogues and mini-documents of a few sentences."""

from __future__ import annotations

from hala_tools.miniature import arabic, english
from hala_tools.miniature.draw import (
    acquaintance,
    adverbial,
    complement,
    location,
    person_name,
    relative,
    subject,
    thing,
)
from hala_tools.miniature.lexicon import Noun
from hala_tools.miniature.nominal import definite_thing
from hala_tools.miniature.phrases import (
    NP,
    PERSONS,
    Context,
    Impossible,
    Pair,
    adjective_predicate,
    copular,
    counted,
    name,
    noun_phrase,
    oblique,
    pronoun,
    statement,
)
from hala_tools.miniature.registry import TEMPLATES, asked, said, template

LISTED = (
    ("food", "buy"),
    ("grocery", "buy"),
    ("drink", "buy"),
    ("small", "buy"),
    ("clothes", "buy"),
    ("animal", "see"),
    ("person", "see"),
    ("sent", "send"),
    ("written", "write"),
    ("food", "eat"),
    ("fixable", "repair"),
    ("place", "visit"),
)


def topic(g: Context) -> NP:
    """What one writes about: `the sea`, `friendship`, `my school`, `cats`."""
    roll = g.rng.random()
    if roll < 0.3:
        noun = g.noun("topic", "subject")
        np = noun_phrase(noun, "s", "the")
        return NP(noun.en, np.nom, np.acc, np.gen, np.agree, noun=noun)
    if roll < 0.45:
        return name(g.word(g.lexicon.cities))
    if roll < 0.6:
        return relative(g)
    noun = g.noun("nature", "sky", "plant", "animal", "place", "vehicle", "event", "town")
    return noun_phrase(noun, "s", g.one(("the", "this")))


@template(4)
def write_about(g: Context) -> tuple[str, Pair]:
    """`Write three sentences about the sea.`"""
    noun = g.noun("text", "written")
    if noun.en == "word" or not noun.en_pl:
        raise Impossible
    np = (
        noun_phrase(noun, "s", "a", g.adjective(noun))
        if g.chance(0.5)
        else noun_phrase(noun, "s", "a")
    )
    if g.chance(0.4):
        np = counted(noun, g.rng.randint(2, 10), g.adjective(noun) if g.chance(0.3) else None)
    verb = g.verb(g.one(("write", "write", "read")))
    about = topic(g)
    return verb.en, said(
        Pair(f"{verb.en} {np.en} about {about.en}", f"{verb.imperative} {np.acc} عن {about.gen}")
    )


@template(2)
def list_items(g: Context) -> tuple[str, Pair]:
    """`List two large animals.`"""
    noun = (
        g.noun("kind")
        if g.chance(0.2)
        else g.noun(
            "animal",
            "food",
            "town",
            "job",
            "vehicle",
            "plant",
            "text",
            "nature",
            "clothes",
            "land",
            "building",
        )
    )
    if not noun.en_pl:
        raise Impossible
    adjective = g.adjective(noun, plural=True) if g.chance(0.5) else None
    np = oblique(counted(noun, g.rng.randint(2, 12), adjective))
    where = Pair("", "")
    if g.chance(0.4):
        land = g.word([c for c, _ in g.lexicon.countries])
        where = Pair(f"from {land.en}", f"من {land.ar}")
    return "", said(Pair(f"list {np.en}", f"اذكر {np.acc}") + where)


@template(2)
def explain(g: Context) -> tuple[str, Pair]:
    style = g.one(("why", "difference", "describe", "example", "tell"))
    if style == "why":
        np = definite_thing(g)
        adjective = g.adjective(np.noun)
        predicate = adjective_predicate(adjective, np)["nom"]
        be = english.be(np.person, "n")
        return style, said(
            Pair(f"explain why {np.en} {be} {adjective.en}", f"اشرح لماذا {np.nom} {predicate}")
        )
    if style == "difference":
        cls = g.one(("animal", "vehicle", "place", "text", "job", "food", "nature", "subject"))
        first, second = g.noun(cls), g.noun(cls)
        if first == second:
            raise Impossible
        a, b = noun_phrase(first, "s", "the"), noun_phrase(second, "s", "the")
        return style, said(
            Pair(
                f"explain the difference between {a.en} and {b.en}",
                f"اشرح الفرق بين {a.gen} و{b.gen}",
            )
        )
    if style == "describe":
        np = definite_thing(g)
        return style, said(Pair(f"describe {np.en}", f"صف {np.acc}"))
    if style == "example":
        np = noun_phrase(g.noun("animal", "matter", "known", "food", "text"), "s", "a")
        if g.chance(0.7):
            np = noun_phrase(np.noun, "s", "a", g.adjective(np.noun))
        return style, said(Pair(f"give an example of {np.en}", f"أعط مثالا على {np.gen}"))
    np = topic(g)
    return style, said(Pair(f"tell me about {np.en}", f"أخبرني عن {np.gen}"))


TASKS = (
    ("translate {} into {lang}", "ترجم {} إلى {lang}"),
    ("summarise {}", "لخص {}"),
    ("correct {}", "صحح {}"),
    ("rewrite {}", "أعد كتابة {}"),
)


@template(1)
def text_task(g: Context) -> tuple[str, Pair]:
    en, ar = g.one(TASKS)
    noun = g.noun("text")
    number = g.one("ssp")
    np = noun_phrase(
        noun, number, g.one(("the", "this")), g.adjective(noun) if g.chance(0.6) else None
    )
    if g.chance(0.4):
        np = noun_phrase(noun, number, "the")
        following = "التالي" if np.agree[0] == "m" else "التالية"
        np = NP(
            np.en.replace("the ", "the following "),
            f"{np.nom} {following}",
            f"{np.acc} {following}",
            f"{np.gen} {following}",
            np.agree,
        )
    language = g.word(g.lexicon.languages)
    case = np.gen if "كتابة" in ar else np.acc
    if "lang" not in en:
        g.words.pop()
    return en.split(" ")[0], said(
        Pair(en.format(np.en, lang=language.en), ar.format(case, lang=language.ar))
    )


def several(
    g: Context, cls: str, count: int, dets: tuple[str, ...] = ("a", "a", "the")
) -> list[NP]:
    nouns: list[Noun] = []
    while len(nouns) < count:
        noun = g.noun(cls)
        if noun in nouns:
            raise Impossible
        nouns.append(noun)
    det = g.one(dets)
    return [noun_phrase(noun, "s", det) for noun in nouns]


@template(6)
def listed_objects(g: Context) -> tuple[str, Pair]:
    """`I bought bread, milk and rice.`"""
    cls, en = g.one(LISTED)
    verb, who = g.verb(en), subject(g)
    items = several(g, cls, g.one((2, 3, 3, 4)))
    tense, negative = g.one("ppfn"), g.chance(0.1)
    rest = Pair(english.listing([i.en for i in items]), " و".join(i.acc for i in items))
    return f"{tense}.{len(items)}", said(statement(who, verb, tense, negative, rest))


@template(1.5)
def love_list(g: Context) -> tuple[str, Pair]:
    verb, who = g.verb("love"), subject(g)
    items = several(g, g.one(("drink", "topic")), g.one((2, 3)), ("the",))
    names = [i.en.removeprefix("the ") for i in items]
    rest = Pair(english.listing(names), " و".join(i.acc for i in items))
    return "", said(statement(who, verb, "n", g.chance(0.2), rest))


def _life(g: Context, who: NP) -> list[Pair]:
    """Sentences about one person that follow each other."""
    he = pronoun(who.person)
    noun = g.noun("job")
    shown = noun
    if who.feminine:
        shown = Noun(noun.en, noun.en_pl, noun.ar + "ة", noun.ar + "ات", "f", "sf", noun.classes)
    trade = noun_phrase(shown, "s", "a")
    home = g.word(g.lexicon.cities)
    lines = [said(copular(who, {"nom": trade.nom, "acc": trade.acc}, trade.en, "n", False))]
    work = noun_phrase(g.noun("work"), "s", "a")
    adjective = g.adjective(g.lexicon.noun("man"))
    child = counted(g.lexicon.noun("child"), g.rng.randint(2, 6))
    pet = thing(g, g.noun("owned"))
    holder = "لدي" + arabic.SUFFIXES[who.person]
    options = [
        statement(he, g.verb("live"), "n", False, Pair(f"in {home.en}", f"في {home.ar}")),
        statement(he, g.verb("work"), "n", False, Pair(f"in {work.en}", f"في {work.gen}")),
        copular(he, adjective_predicate(adjective, he), adjective.en, "n", False),
        Pair(f"{he.en} has {child.en}", f"{holder} {child.nom}"),
    ]
    if not pet.definite:
        options.append(Pair(f"{he.en} has {pet.en}", f"{holder} {pet.nom}"))
    g.rng.shuffle(options)
    return lines + [said(o) for o in options[: g.one((1, 2, 2, 3))]]


@template(7)
def profile(g: Context) -> tuple[str, Pair]:
    """A mini-document on one person."""
    who = person_name(g) if g.chance(0.6) else g.one((relative, acquaintance))(g)
    if not who.singular:
        raise Impossible
    lines = _life(g, who)
    text = lines[0]
    for line in lines[1:]:
        text += line
    return "", text


SINGLE_LINES = (
    "clause_statement",
    "description",
    "there_is",
    "have",
    "where_it_is",
    "listed_objects",
    "command",
    "comparison",
    "timetable",
)
QUESTIONS = (
    "yes_no_question",
    "what_question",
    "where_question",
    "when_or_why_question",
    "how_many_question",
)


@template(5)
def document(g: Context) -> tuple[str, Pair]:
    """Two or three independent sentences in a row."""
    text = Pair("", "")
    for _ in range(g.one((2, 2, 3))):
        _, function = TEMPLATES[g.one(SINGLE_LINES)]
        text += function(g)[1]
    return "", text


@template(5)
def dialogue(g: Context) -> tuple[str, Pair]:
    """A question and its answer, with yes or no."""
    verb = g.word(
        [
            v
            for v in g.lexicon.verbs.values()
            if v.imperative and "none" not in v.classes and v.en not in ("give", "put", "say")
        ]
    )
    tense = g.one("npf")
    rest = complement(g, verb) + adverbial(g, tense)
    question = asked(
        Pair("", "هل") + statement(pronoun("you"), verb, tense, False, rest, asked=True)
    )
    negative = g.chance(0.4)
    reply = said(statement(pronoun("I"), verb, tense, negative, rest))
    start = Pair("No, ", "لا، ") if negative else Pair("Yes, ", "نعم، ")
    answer = Pair(start.en + reply.en, start.ar + reply.ar)
    return tense, question + answer


@template(2)
def question_then_place(g: Context) -> tuple[str, Pair]:
    """`Where is my key? It is on the table.`: the pronoun takes the noun's gender."""

    noun = g.noun("small", "lost", "pet", "clothes", "owned")
    det = g.one(("the", *PERSONS)) if "owned" in noun.classes else "the"
    np = noun_phrase(noun, "s", det)
    spot = location(g, noun)
    if noun.en in spot.en or noun.human:
        raise Impossible
    he = "هي" if np.feminine else "هو"
    question = asked(Pair(f"where is {np.en}", f"أين {np.nom}"))
    return "", question + said(Pair(f"it is {spot.en}", f"{he} {spot.ar}"))
