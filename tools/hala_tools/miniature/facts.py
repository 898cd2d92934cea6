"""Templates on numbers, dates, times, prices, places of the world, ages and arithmetic."""

from __future__ import annotations

from hala_tools.miniature import arabic, english
from hala_tools.miniature.draw import (
    at_time,
    city,
    clock,
    complement,
    country,
    on_date,
    on_day,
    person_name,
    relative,
    subject,
    tense_for,
)
from hala_tools.miniature.lexicon import Name
from hala_tools.miniature.phrases import (
    NP,
    PERSONS,
    Context,
    Impossible,
    Pair,
    copular,
    counted,
    noun_phrase,
    pronoun,
    statement,
)
from hala_tools.miniature.registry import asked, polarity, said, template


def _capital(g: Context) -> tuple[Name, Name]:
    land, capital = g.one(g.lexicon.countries)
    g.words += [land.key, capital.key]
    return land, capital


@template(0.8)
def capital_facts(g: Context) -> tuple[str, Pair]:
    land, capital = _capital(g)
    style = g.one(("asked", "answer", "statement", "in", "dialogue"))
    question = asked(Pair(f"what is the capital of {land.en}", f"ما عاصمة {land.ar}"))
    answer = said(
        Pair(f"the capital of {land.en} is {capital.en}", f"عاصمة {land.ar} هي {capital.ar}")
    )
    if style == "asked":
        return style, question
    if style == "answer":
        return style, answer
    if style == "dialogue":
        return style, question + answer
    if style == "in":
        return style, said(Pair(f"{capital.en} is in {land.en}", f"{capital.ar} في {land.ar}"))
    return style, said(
        Pair(f"{capital.en} is the capital of {land.en}", f"{capital.ar} هي عاصمة {land.ar}")
    )


@template(2.5)
def city_description(g: Context) -> tuple[str, Pair]:
    where = city(g) if g.chance(0.4) else country(g)
    noun = g.lexicon.noun("city" if where.en in {c.en for c in g.lexicon.cities} else "country")
    adjective = g.adjective(noun)
    np = noun_phrase(noun, "s", "a", adjective)
    question = g.chance(0.25)
    pair = copular(
        where,
        {"nom": np.nom, "acc": np.acc},
        np.en,
        "n",
        not question and g.chance(0.2),
        asked=question,
    )
    return ("asked", asked(Pair("", "هل") + pair)) if question else ("said", said(pair))


@template(2.5)
def origin(g: Context) -> tuple[str, Pair]:
    who = subject(g, pairs=False)
    if not who.definite:
        raise Impossible
    where = country(g) if g.chance(0.7) else city(g)
    predicate = {"nom": f"من {where.gen}", "acc": f"من {where.gen}"}
    negative = g.chance(0.2)
    pair = copular(who, predicate, f"from {where.en}", "n", negative)
    return polarity(negative), said(pair)


@template(2)
def speaks(g: Context) -> tuple[str, Pair]:
    """Languages: speak, learn, study."""
    en = g.one(("speak", "learn"))
    language = g.word(g.lexicon.languages)
    who = subject(g)
    verb = g.lexicon.verbs[en]
    tense, negative, rest = "n", g.chance(0.25), Pair(language.en, language.ar)
    if en == "learn":
        tense = g.one("nppf")
    if g.chance(0.25) and not negative and en == "speak":
        rest += Pair("very well", "جيدا جدا")
    if g.chance(0.15):
        question = statement(pronoun("you"), verb, tense, False, rest, asked=True)
        return f"{en}.{tense}.asked", asked(Pair("", "هل") + question)
    return f"{en}.{tense}.{polarity(negative)}", said(statement(who, verb, tense, negative, rest))


@template(0.4)
def what_time(g: Context) -> tuple[str, Pair]:
    time = clock(g)
    style = g.one(("said", "now", "dialogue"))
    answer = said(Pair(f"it is {time.en}", f"إنها {time.ar}"))
    if style == "said":
        return style, answer
    if style == "now":
        return style, said(Pair(f"it is {time.en} now", f"إنها {time.ar} الآن"))
    return style, asked(Pair("what time is it", "كم الساعة")) + answer


EVENTS = ("event", "exam", "seen", "studied")


@template(3)
def timetable(g: Context) -> tuple[str, Pair]:
    """When something is or begins: days, dates, hours."""
    noun = g.word(g.lexicon.nouns_of(*EVENTS))
    np = noun_phrase(noun, "s", g.one(("the", "this")))
    when = g.one((on_day, at_time, on_date))(g)
    if when.en.startswith("on ") and g.chance(0.4) and "يوم" in when.ar:
        when += at_time(g)
    style = g.one(("is", "begin", "began", "will", "was"))
    if style in ("is", "was"):
        tense = "n" if style == "is" else "p"
        return style, said(copular(np, {"nom": when.ar, "acc": when.ar}, when.en, tense, False))
    verb = g.verb("begin")
    tense = {"begin": "n", "began": "p", "will": "f"}[style]
    return style, said(statement(np, verb, tense, False, when))


@template(1.5)
def transport_times(g: Context) -> tuple[str, Pair]:
    np = noun_phrase(g.noun("vehicle"), "s", "the")
    verb = g.verb(g.one(("leave", "return")))
    where = city(g)
    rest = (
        Pair(where.en, where.acc)
        if verb.en == "leave"
        else Pair(f"to {where.en}", f"إلى {where.gen}")
    )
    tense, negative = g.one("npf"), g.chance(0.15)
    return f"{tense}.{polarity(negative)}", said(
        statement(np, verb, tense, negative, rest + at_time(g))
    )


@template(1.2)
def small_talk(g: Context) -> tuple[str, Pair]:
    """Names and greetings."""
    who, other, home = person_name(g), person_name(g, "m"), city(g)
    hello_en, hello_ar = g.one(
        (
            ("good morning", "صباح الخير"),
            ("good evening", "مساء الخير"),
            ("hello", "مرحبا"),
            ("thank you", "شكرا"),
            ("goodbye", "مع السلامة"),
        )
    )
    hello = said(Pair(f"{hello_en}, {who.en}", f"{hello_ar} يا {who.nom}"))
    me = said(Pair(f"my name is {other.en}", f"اسمي {other.nom}"))
    live = said(Pair(f"I live in {home.en}", f"أسكن في {home.gen}"))
    person, suffix = g.one((("his", "ه"), ("her", "ها"), ("your", "ك")))
    return g.one(
        (
            ("hello", hello),
            ("introduce", hello + me),
            ("home", me + live),
            ("live", hello + me + live),
            ("ask", asked(Pair(f"what is {person} name", f"ما اسم{suffix}"))),
            ("ask_hello", hello + asked(Pair("what is your name", "ما اسمك"))),
            ("where_from", hello + asked(Pair("where are you from", "من أين أنت"))),
        )
    )


@template(1)
def identity(g: Context) -> tuple[str, Pair]:
    """`Who is this man?`, `What is this?`, `This man is my uncle.`"""
    noun = g.noun("person")
    adjective = g.adjective(noun, plural=True) if g.chance(0.6) else None
    number = g.one("ssp")
    np = noun_phrase(noun, number, g.one(("this", "this", "that", "the")), adjective)
    be = english.be(np.person, "n")
    if g.chance(0.5):
        return "asked", asked(Pair(f"who {be} {np.en}", f"من {np.nom}"))
    other = relative(g)
    if other.person != np.person or number == "p":
        raise Impossible
    copula = "هي" if np.feminine else "هو"
    return "said", said(Pair(f"{np.en} is {other.en}", f"{np.nom} {copula} {other.nom}"))


@template(0.3)
def weekday(g: Context) -> tuple[str, Pair]:
    en, ar = g.one(g.lexicon.days)
    month_en, month_ar = g.one(g.lexicon.months)
    day, year = g.rng.randint(1, 28), g.rng.randint(1990, 2030)
    style = g.one(("today", "tomorrow", "yesterday", "date"))
    text = {
        "today": Pair(f"today is {en}", f"اليوم هو {ar}"),
        "tomorrow": Pair(f"tomorrow is {en}", f"غدا يوم {ar}"),
        "yesterday": Pair(f"yesterday was {en}", f"كان أمس يوم {ar}"),
        "date": Pair(f"today is {day} {month_en} {year}", f"اليوم هو {day} {month_ar} {year}"),
    }[style]
    return style, said(text)


@template(1.5)
def birth(g: Context) -> tuple[str, Pair]:
    who = person_name(g) if g.chance(0.5) else relative(g)
    if not who.singular:
        raise Impossible
    verb = "ولدت" if who.feminine else "ولد"
    pair = Pair(f"{who.en} was born", f"{verb} {who.nom}")
    where = city(g)
    if g.chance(0.6):
        pair += Pair(f"in {where.en}", f"في {where.gen}")
    if g.chance(0.3):
        year = g.rng.randint(1900, 2025)
        return "year", said(pair + Pair(f"in {year}", f"في عام {year}"))
    return "date", said(pair + on_date(g))


@template(3)
def price(g: Context) -> tuple[str, Pair]:
    noun = g.noun("thing", "clothes", "vehicle", "food", "grocery", "read")
    det = g.one(("the", "the", "this"))
    adjective = g.adjective(noun) if g.chance(0.3) else None
    np = noun_phrase(noun, "s", det, adjective)
    if g.chance(0.2):
        return "asked", asked(Pair(f"what is the price of {np.en}", f"ما سعر {np.gen}"))
    money = g.noun("money")
    digits = g.chance(0.7)
    n = (
        g.rng.randint(3, 100)
        if not digits
        else g.one((g.rng.randint(3, 100), g.rng.randint(1, 60) * 100))
    )
    amount = counted(money, n, digits=digits)
    return "said", said(Pair(f"the price of {np.en} is {amount.en}", f"سعر {np.gen} {amount.nom}"))


def _who_has_age(g: Context) -> NP:
    who = person_name(g) if g.chance(0.4) else relative(g)
    if not who.singular or who.en == "Omar":
        raise Impossible
    return who


@template(2)
def age(g: Context) -> tuple[str, Pair]:
    n, digits = g.rng.randint(3, 100), g.chance(0.5)
    years = counted(g.lexicon.noun("year"), n, digits=digits)
    number = str(n) if digits else english.number_words(n)
    if g.chance(0.3):
        person = g.one(PERSONS[:4])
        be = english.be(person, "n")
        life = "عمر" + arabic.SUFFIXES[person]
        return "pronoun", said(Pair(f"{person} {be} {number} years old", f"{life} {years.nom}"))
    who = _who_has_age(g)
    if g.chance(0.2):
        return "asked", asked(Pair(f"how old is {who.en}", f"كم عمر {who.gen}"))
    return "said", said(Pair(f"{who.en} is {number} years old", f"عمر {who.gen} {years.nom}"))


@template(0.8)
def arithmetic(g: Context) -> tuple[str, Pair]:
    a, b = g.rng.randint(1, 60), g.rng.randint(1, 60)
    question = asked(Pair(f"what is the sum of {a} and {b}", f"ما مجموع {a} و{b}"))
    answer = said(Pair(f"the sum of {a} and {b} is {a + b}", f"مجموع {a} و{b} هو {a + b}"))
    style = g.one(("asked", "answer", "dialogue"))
    return style, {"asked": question, "answer": answer, "dialogue": question + answer}[style]


PERIODS = ("day", "week", "month", "year", "hour", "minute")


@template(2)
def duration(g: Context) -> tuple[str, Pair]:
    """`We waited for Samir for three hours.`"""
    verb = g.verb(g.one(("work", "study", "live", "sleep", "walk", "wait", "read", "play", "swim")))
    years = counted(g.word([g.lexicon.noun(w) for w in PERIODS]), g.rng.randint(2, 40))
    tense = g.one("pppf")
    rest = complement(g, verb) + Pair(f"for {years.en}", f"لمدة {years.gen}")
    return tense, said(statement(subject(g), verb, tense, False, rest))


@template(2.5)
def ordinals(g: Context) -> tuple[str, Pair]:
    noun = g.noun("written", "known", "seen", "text", "period", "building", "opened", "exam", "way")
    if not noun.en_pl or noun.en == "name":
        raise Impossible
    order = g.one(g.lexicon.ordinals[:10])[:3]
    ordinal = order if order[0] != "first" else ("first", "أول", "أولى")
    np = noun_phrase(noun, "s", "the", ordinal=ordinal)
    if g.chance(0.35):
        pointer = arabic.demonstrative("this", noun.gender + "s", "nom")
        copula = "هي" if noun.gender == "f" else "هو"
        return "this", said(Pair(f"this is {np.en}", f"{pointer} {copula} {np.nom}"))
    fitting = [v for v in g.lexicon.verbs.values() if v.classes & noun.classes and not v.ar_prep]
    verb = g.word(fitting)
    tense, negative = tense_for(g, verb, "nppf"), g.chance(0.2)
    rest = Pair(f"{verb.en_prep} {np.en}".strip(), np.acc)
    return f"{tense}.{polarity(negative)}", said(statement(subject(g), verb, tense, negative, rest))


@template(0.6)
def colour_question(g: Context) -> tuple[str, Pair]:
    noun = g.noun("thing", "vehicle", "clothes", "plant")
    colour = g.word([a for a in g.lexicon.adjectives if a.colour])
    np = noun_phrase(
        noun, "s", g.one(("the", "this", *(PERSONS if "owned" in noun.classes else ())))
    )
    question = asked(Pair(f"what is the colour of {np.en}", f"ما لون {np.gen}"))
    answer = said(Pair(f"the colour of {np.en} is {colour.en}", f"لون {np.gen} {colour.ms}"))
    style = g.one(("asked", "answer", "dialogue"))
    return style, {"asked": question, "answer": answer, "dialogue": question + answer}[style]


@template(0.3)
def weather(g: Context) -> tuple[str, Pair]:
    adjective = (
        g.adjective(g.lexicon.noun("water"))
        if g.chance(0.3)
        else g.word([g.lexicon.adjective(w) for w in ("hot", "cold", "beautiful")])
    )
    where = city(g)
    tense = g.one("npf")
    when = {"n": ("today", "اليوم"), "p": ("yesterday", "أمس"), "f": ("tomorrow", "غدا")}[tense]
    np = NP("the weather", "الجو", "الجو", "الجو", "ms")
    predicate = {c: arabic.adjective_form(adjective, "ms", c, False) for c in ("nom", "acc")}
    negative = g.chance(0.25)
    pair = copular(np, predicate, adjective.en, tense, negative)
    pair += Pair(f"in {where.en} {when[0]}", f"في {where.gen} {when[1]}")
    return f"{tense}.{polarity(negative)}", said(pair)
