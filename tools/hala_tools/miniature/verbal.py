"""Templates around a verb: statements, questions, commands, modal verbs, joined clauses."""

from __future__ import annotations

from hala_tools.miniature import arabic, english
from hala_tools.miniature.draw import (
    STATIVE,
    action,
    adverbial,
    asked_subject,
    clause,
    complement,
    definite_subject,
    location,
    person_name,
    some,
    somewhere,
    subject,
    tense_for,
    thing,
)
from hala_tools.miniature.lexicon import Verb
from hala_tools.miniature.phrases import (
    NP,
    Context,
    Impossible,
    Pair,
    following,
    full_person,
    noun_phrase,
    oblique,
    pronoun,
    statement,
    verb_group,
    verb_person,
)
from hala_tools.miniature.registry import asked, polarity, said, template


@template(30)
def clause_statement(g: Context) -> tuple[str, Pair]:
    who, verb = subject(g), action(g)
    tense, negative = tense_for(g, verb), g.chance(0.22)
    kind = "pronoun" if who.pronoun else "lexical"
    return f"{kind}.{tense}.{polarity(negative)}", said(clause(g, who, verb, tense, negative))


@template(9)
def yes_no_question(g: Context) -> tuple[str, Pair]:
    who, verb = asked_subject(g), action(g)
    tense = tense_for(g, verb, "nppf")
    pair = clause(g, who, verb, tense, False, asked=True)
    return tense, asked(Pair("", "هل") + pair)


def _object_question(g: Context, verb: Verb, who: NP, tense: str) -> Pair:
    return statement(who, verb, tense, False, adverbial(g, tense), asked=True)


WHAT = (
    "write",
    "read",
    "eat",
    "drink",
    "buy",
    "sell",
    "see",
    "use",
    "study",
    "watch",
    "hear",
    "draw",
    "choose",
    "find",
    "carry",
    "send",
    "explain",
    "bring",
)


@template(3)
def what_question(g: Context) -> tuple[str, Pair]:
    verb = g.verb(g.one(WHAT))
    tense = g.one("npppf")
    pair = _object_question(g, verb, asked_subject(g), tense)
    return tense, asked(Pair("what", "ماذا") + pair)


@template(2)
def where_question(g: Context) -> tuple[str, Pair]:
    verb = g.verb(g.one(("live", "work", "sit", "sleep", "swim", "play", "walk", "run", "stand")))
    tense = g.one("npp")
    return tense, asked(Pair("where", "أين") + _object_question(g, verb, asked_subject(g), tense))


@template(4)
def when_or_why_question(g: Context) -> tuple[str, Pair]:
    which, verb = g.one((("when", "متى"), ("why", "لماذا"))), action(g)
    tense = g.one("ppf" if which[0] == "when" else "np")
    pair = statement(asked_subject(g), verb, tense, False, complement(g, verb), asked=True)
    return f"{which[0]}.{tense}", asked(Pair(*which) + pair)


@template(3)
def who_question(g: Context) -> tuple[str, Pair]:
    verb = action(g)
    tense = tense_for(g, verb, "npppf")
    rest = complement(g, verb) + adverbial(g, tense)
    group = verb_group(verb, "he", tense, False)
    en = english.predicate(verb, "he", tense, False)
    return tense, asked(Pair("who", "من") + Pair(en, group) + rest)


@template(3)
def how_many_question(g: Context) -> tuple[str, Pair]:
    verb = action(g)
    if verb.ar_prep or verb.en_prep or verb.classes & {"none", "generic"}:
        raise Impossible
    noun = g.noun(*sorted(verb.classes - {"names", "cities", "family"}))
    if not noun.en_pl or verb.en == "drink":
        raise Impossible
    pair = _object_question(g, verb, asked_subject(g), tense := g.one("npp"))
    counted = Pair(f"how many {noun.en_pl}", f"كم {arabic.noun_form(noun, 's', 'acc', False)}")
    return tense, asked(counted + pair)


@template(9)
def command(g: Context) -> tuple[str, Pair]:
    verb = action(g, imperative=True)
    rest = complement(g, verb)
    style = g.one(("plain", "plain", "not", "not", "please", "name", "lets"))
    if style == "not":
        pair = Pair(f"do not {verb.en}", f"لا {arabic.jussive(verb, 'you')}") + rest
        if g.chance(0.25):
            pair += Pair(*g.one((("today", "اليوم"), ("now", "الآن"), ("tomorrow", "غدا"))))
    elif style == "lets":
        pair = Pair(f"let us {verb.en}", f"هيا {arabic.present(verb, 'we')}") + rest
    else:
        pair = Pair(verb.en, verb.imperative) + rest
        if style == "please":
            pair = Pair(f"please {pair.en}", f"من فضلك {pair.ar}")
        elif style == "name":
            who = person_name(g, "m")
            pair = Pair(f"{who.en}, {pair.en}", f"يا {who.nom}، {pair.ar}")
        elif g.chance(0.25):
            pair += Pair(*g.one((("today", "اليوم"), ("now", "الآن"), ("tomorrow", "غدا"))))
    return style, said(pair)


def _embedded(g: Context, person: str, verb: Verb) -> Pair:
    """The base verb in English, أن and the subjunctive in Arabic."""
    return Pair(verb.en, f"أن {arabic.subjunctive(verb, person)}") + complement(g, verb)


@template(8)
def want_or_can(g: Context) -> tuple[str, Pair]:
    which = g.one(("want", "want", "can"))
    is_question = g.chance(0.25)
    who = asked_subject(g) if is_question else subject(g, pairs=False)
    modal, verb = g.verb(which), action(g)
    person = full_person(who)
    embedded = _embedded(g, person, verb)
    if which == "want":
        embedded = Pair("to", "") + embedded
    negative = not is_question and g.chance(0.25)
    tense = "p" if which == "want" and g.chance(0.3) else "n"
    if which == "can" and is_question:
        en = Pair(f"can {who.en} {embedded.en}", "")
        ar = statement(who, modal, tense, False, asked=True).ar
        pair = Pair(en.en, f"{ar} {embedded.ar}")
    else:
        pair = statement(who, modal, tense, negative, embedded, asked=is_question)
    if tense == "n" and g.chance(0.3):
        pair += Pair(
            *g.one((("tomorrow", "غدا"), ("today", "اليوم"), ("next week", "الأسبوع القادم")))
        )
    variant = f"{which}.{tense}.{polarity(negative)}"
    if is_question:
        return f"{which}.{tense}.asked", asked(Pair("", "هل") + pair)
    return variant, said(pair)


@template(4)
def must(g: Context) -> tuple[str, Pair]:
    who, verb = subject(g, pairs=False), action(g)
    negative = g.chance(0.2)
    person = full_person(who)
    on = "على " + oblique(who).gen
    if who.pronoun:
        on = "علي" if who.person == "I" else "علي" + arabic.SUFFIXES[who.person]
    group = f"يجب {on} {'ألا' if negative else 'أن'} {arabic.subjunctive(verb, person)}"
    pair = Pair(f"{who.en} must {'not ' if negative else ''}{verb.en}", group) + complement(g, verb)
    if g.chance(0.25):
        pair += Pair(*g.one((("tomorrow", "غدا"), ("today", "اليوم"), ("now", "الآن"))))
    return polarity(negative), said(pair)


@template(4)
def two_actions(g: Context) -> tuple[str, Pair]:
    who = subject(g, pairs=False)
    first, second = action(g), action(g)
    tense = g.one("npppf")
    if first.en == second.en or {first.en, second.en} & STATIVE:
        raise Impossible
    left = statement(who, first, tense, False, complement(g, first))
    right = following(who, second, tense, complement(g, second) + adverbial(g, tense))
    return tense, said(Pair(f"{left.en} and {right.en}", f"{left.ar} و{right.ar}"))


@template(4)
def but_not(g: Context) -> tuple[str, Pair]:
    """`Samir bought the book but he did not read the letter.`"""
    who = subject(g, pairs=False)
    first, second = action(g), action(g)
    tense = g.one("npp")
    if first.en == second.en:
        raise Impossible
    person = full_person(who)
    anaphor = pronoun(person)
    left = statement(who, first, tense, False, complement(g, first))
    en = english.predicate(second, person, tense, True)
    group = verb_group(second, person, tense, True)
    right = Pair(f"but {anaphor.en} {en}", f"لكن{LAKIN[person]} {group}") + complement(g, second)
    return tense, said(left + right)


LAKIN = {"I": "ني", "you": "ك", "he": "ه", "she": "ها", "we": "نا", "they": "هم"}


@template(4)
def when_clause(g: Context) -> tuple[str, Pair]:
    first_verb, second_verb = action(g), action(g)
    if {first_verb.en, second_verb.en} & {"know", "love", "need"}:
        raise Impossible
    first, second = subject(g, pronouns=0.2), subject(g, pronouns=0.6)
    if first.en == second.en:
        raise Impossible
    if first.pronoun and first.person != "we":
        raise Impossible  # the pronoun after عندما would be heavy, and its verb alone unclear
    left = statement(first, first_verb, "p", False, complement(g, first_verb))
    right = statement(second, second_verb, "p", False, complement(g, second_verb))
    return "", said(Pair(f"when {left.en}, {right.en}", f"عندما {left.ar}، {right.ar}"))


@template(4)
def if_clause(g: Context) -> tuple[str, Pair]:
    who = definite_subject(g, pronouns=0.4)
    first, second = action(g), action(g)
    if first.en == second.en or {first.en, second.en} & (STATIVE - {"find", "see", "succeed"}):
        raise Impossible
    if who.pronoun and who.person in ("you", "she"):
        raise Impossible
    person = full_person(who)
    condition = verb_group(first, verb_person(who), "p", False)
    if not who.pronoun:
        condition += " " + who.nom
    elif who.person == "they":
        condition = arabic.past(first, "they")
    left = Pair(
        f"if {who.en} {english.predicate(first, who.person, 'n', False)}", f"إذا {condition}"
    ) + complement(g, first)
    then = pronoun(person).en
    right = Pair(f"{then} will {second.en}", f"فس{arabic.present(second, person)}")
    right += complement(g, second)
    return "", said(Pair(f"{left.en}, {right.en}", f"{left.ar}، {right.ar}"))


@template(4)
def give_object(g: Context) -> tuple[str, Pair]:
    who, verb = subject(g), g.verb("give")
    tense, negative = g.one("pppf"), g.chance(0.2)
    receiver = noun_phrase(g.noun("person"), g.one("ssp"), "the")
    if g.chance(0.4):
        receiver = person_name(g)
    gift = thing(g, g.noun("small", "carried", "sent", "clothes", "food"))
    rest = Pair(f"{receiver.en} {gift.en}", f"{receiver.acc} {gift.acc}") + adverbial(g, tense)
    if who.en == receiver.en:
        raise Impossible
    return f"{tense}.{polarity(negative)}", said(statement(who, verb, tense, negative, rest))


@template(3)
def put_object(g: Context) -> tuple[str, Pair]:
    verb = g.verb("put")
    item = thing(g, g.noun("small", "carried", "clothes", "used"), indefinite=False)
    place = g.one(
        (("on", "على", "surface"), ("under", "تحت", "surface"), ("in", "في", "container"))
    )
    spot = noun_phrase(g.noun(place[2]), "s", g.one(("the", "the", "this")))
    rest = Pair(f"{item.en} {place[0]} {spot.en}", f"{item.acc} {place[1]} {spot.gen}")
    if item.noun == spot.noun:
        raise Impossible
    if g.chance(0.3):
        return "command", said(Pair("put", verb.imperative) + rest)
    tense, negative = g.one("pppf"), g.chance(0.2)
    return f"{tense}.{polarity(negative)}", said(statement(subject(g), verb, tense, negative, rest))


@template(3)
def counted_subject(g: Context) -> tuple[str, Pair]:
    who = some(g, g.noun("person"))
    verb = action(g)
    tense = g.one("ppf")
    return tense, said(clause(g, who, verb, tense, False))


@template(3)
def action_place(g: Context) -> tuple[str, Pair]:
    verb = g.verb(g.one(("eat", "read", "write", "drink", "buy", "study", "cook", "draw", "meet")))
    who, tense = subject(g), g.one("npppf")
    place = noun_phrase(
        g.noun({"cook": "indoor", "buy": "work"}.get(verb.en, "goal")),
        "s",
        g.one(("the", "the", "this")),
    )
    where = Pair(f"in {place.en}", f"في {place.gen}")
    return tense, said(statement(who, verb, tense, False, complement(g, verb) + where))


@template(2.5)
def action_with(g: Context) -> tuple[str, Pair]:
    """Company and means: `with Samir`, `by train`."""
    verb = g.verb(g.one(("go", "travel", "return", "play", "walk", "work", "study", "eat")))
    who, tense = subject(g), g.one("nppf")
    if g.chance(0.35) and verb.en in ("go", "travel", "return"):
        vehicle = noun_phrase(g.noun("vehicle"), "s", "the")
        rest = Pair(vehicle.en.replace("the ", "by "), "ب" + vehicle.gen)
    else:
        friend = person_name(g)
        if friend.en == who.en:
            raise Impossible
        rest = Pair(f"with {friend.en}", f"مع {friend.gen}")
    return tense, said(statement(who, verb, tense, False, complement(g, verb) + rest))


@template(1.5)
def from_to(g: Context) -> tuple[str, Pair]:
    start, end = somewhere(g), somewhere(g)
    if start.en == end.en:
        raise Impossible
    verb, tense = g.verb(g.one(("travel", "return", "go"))), g.one("ppf")
    rest = Pair(f"from {start.en} to {end.en}", f"من {start.gen} إلى {end.gen}")
    return tense, said(statement(subject(g), verb, tense, False, rest + adverbial(g, tense)))


@template(2)
def saw_at(g: Context) -> tuple[str, Pair]:
    verb = g.verb(g.one(("see", "find", "meet", "hear")))
    classes = {
        "see": ("person", "animal"),
        "find": ("lost", "small"),
        "meet": ("person",),
        "hear": ("heard",),
    }[verb.en]
    item = noun_phrase(noun := g.noun(*classes), g.one("ssp") if noun.en_pl else "s", "a")
    rest = Pair(item.en, item.acc) + location(g)
    return "", said(statement(subject(g), verb, "p", g.chance(0.15), rest))
