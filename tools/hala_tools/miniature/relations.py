"""Templates that relate two things: having, comparing, believing, reasons, parts of a whole."""

from __future__ import annotations

from hala_tools.miniature import arabic, english
from hala_tools.miniature.draw import (
    action,
    complement,
    definite_subject,
    maybe_adjective,
    person_name,
    relative,
    some,
    subject,
)
from hala_tools.miniature.lexicon import Adjective
from hala_tools.miniature.nominal import DESCRIBED, PASSING, bare, describe
from hala_tools.miniature.phrases import (
    NP,
    Context,
    Impossible,
    Pair,
    adjective_predicate,
    copular,
    counted,
    full_person,
    noun_phrase,
    oblique,
    owned_by,
    pronoun,
    statement,
)
from hala_tools.miniature.registry import asked, polarity, said, template

OWNABLE = ("owned", "clothes", "pet", "small", "event", "exam", "position", "matter", "job")


@template(8)
def have(g: Context) -> tuple[str, Pair]:
    who = subject(g, pronouns=0.5, pairs=False)
    noun = g.noun(*OWNABLE)
    if "job" in noun.classes and g.chance(0.7):
        raise Impossible
    if "family" not in noun.classes and noun.en_pl and g.chance(0.35):
        np = some(g, noun)
    else:
        number = g.one("sssspd")
        np = noun_phrase(noun, number, "a", maybe_adjective(g, noun, 0.45, number == "p"))
    return _possession(g, who, np)


@template(2)
def have_relatives(g: Context) -> tuple[str, Pair]:
    who = subject(g, pronouns=0.5, pairs=False)
    noun = g.word([n for n in g.lexicon.nouns if n.en in RELATIVES])
    if g.chance(0.35):
        np = counted(noun, g.rng.randint(3, 12), digits=g.chance(0.3))
    else:
        np = noun_phrase(noun, g.one("spd"), "a")
    return _possession(g, who, np)


RELATIVES = {"brother", "sister", "son", "uncle", "aunt", "friend", "neighbour", "child", "guest"}


def _possession(g: Context, who: NP, np: NP) -> tuple[str, Pair]:
    oblique(who)
    holder = "لد" + ("ي" if who.person == "I" else "ي" + arabic.SUFFIXES[who.person])
    if not who.pronoun:
        holder = f"لدى {who.gen}"
    third = who.person in ("he", "she")
    style = g.one(("pos", "pos", "pos", "neg", "past", "asked"))
    if style == "neg":
        do = "does" if third else "do"
        feminine = "ليست" if np.feminine else "ليس"
        return style, said(Pair(f"{who.en} {do} not have {np.en}", f"{feminine} {holder} {np.nom}"))
    if style == "past":
        was = "كانت" if np.feminine else "كان"
        return style, said(Pair(f"{who.en} had {np.en}", f"{was} {holder} {np.nom}"))
    if style == "asked":
        if who.person in ("I", "we"):
            raise Impossible
        do = "does" if third else "do"
        return style, asked(Pair(f"{do} {who.en} have {np.en}", f"هل {holder} {np.nom}"))
    has = "has" if third else "have"
    return style, said(Pair(f"{who.en} {has} {np.en}", f"{holder} {np.nom}"))


@template(6)
def comparison(g: Context) -> tuple[str, Pair]:
    if g.chance(0.5):
        adjective = g.adjective(g.lexicon.noun("man"), comparative=True, plural=True)
        first, second = (
            definite_subject(g, pronouns=0.3),
            oblique(definite_subject(g, pronouns=0.0)),
        )
        kind = "human"
    else:
        noun = g.noun(*DESCRIBED)
        adjective = g.adjective(noun, comparative=True)
        others = [n for n in g.lexicon.nouns_of(*noun.classes) if n.classes & adjective.classes]
        first, second = bare(g, noun), bare(g, g.word(others))
        kind = "thing"
    if first.en == second.en:
        raise Impossible
    forms = f"{adjective.ar_more} من {second.gen}"
    tense, negative = g.one("nnnp"), g.chance(0.15)
    if g.chance(0.15) and not first.pronoun:
        pair = copular(
            first,
            {"nom": forms, "acc": forms},
            f"{adjective.en_more} than {second.en}",
            "n",
            False,
            asked=True,
        )
        return f"{kind}.asked", asked(Pair("", "هل") + pair)
    pair = copular(
        first,
        {"nom": forms, "acc": forms},
        f"{adjective.en_more} than {second.en}",
        tense,
        negative,
    )
    return f"{kind}.{tense}.{polarity(negative)}", said(pair)


def _superlative(adjective: Adjective) -> str:
    if adjective.en_more.startswith("more "):
        return "most " + adjective.en
    if adjective.en_more.endswith("er"):
        return adjective.en_more[:-2] + "est"
    raise Impossible


@template(5)
def superlative(g: Context) -> tuple[str, Pair]:
    noun = g.noun(
        "vehicle",
        "building",
        "place",
        "nature",
        "person",
        "way",
        "plant",
        "text",
        "town",
        "known",
        "matter",
        "job",
        "animal",
        "clothes",
        "heard",
        "seen",
    )
    adjective = g.adjective(noun, comparative=True, plural=True)
    en = f"the {_superlative(adjective)} {noun.en}"
    ar = f"{adjective.ar_more} {noun.ar}"
    scope = noun_phrase(g.noun("town", "land"), "s", g.one(("the", "the", "this")))
    where = Pair(f"in {scope.en}", f"في {scope.gen}")
    if scope.noun == noun:
        raise Impossible
    if noun.human:
        who = person_name(g) if g.chance(0.6) else relative(g)
        if not who.singular or (who.feminine != (noun.gender == "f")):
            raise Impossible
        tense = g.one("nnp")
        pair = copular(who, {"nom": ar, "acc": ar}, en, tense, False) + where
        return f"human.{tense}", said(pair)
    which = g.one(("this", "that"))
    pointer = arabic.demonstrative(which, noun.gender + "s", "nom")
    if g.chance(0.25):
        return "what", asked(
            Pair(f"what is {en}", f"{'ما هي' if noun.gender == 'f' else 'ما هو'} {ar}") + where
        )
    return "thing", said(Pair(f"{which} is {en}", f"{pointer} {ar}") + where)


@template(6)
def that_clause(g: Context) -> tuple[str, Pair]:
    """`I know that the house is big`: after أن and إن the subject is accusative."""
    verb = g.verb(g.one(("know", "believe", "say")))
    who = subject(g, pronouns=0.5, pairs=False)
    tense = "p" if verb.en == "say" else "n"
    about, adjective = describe(g, g.chance(0.5))
    oblique(about)
    predicate = adjective_predicate(adjective, about)["nom"]
    particle = "إن" if verb.en == "say" else "أن"
    if about.pronoun:
        joined = particle + {"I": "ني", "we": "نا"}.get(about.person, arabic.SUFFIXES[about.person])
    else:
        joined = f"{particle} {about.acc}"
    rest = Pair(
        f"that {about.en} {english.be(about.person, 'n')} {adjective.en}", f"{joined} {predicate}"
    )
    if who.en == about.en:
        raise Impossible
    negative = tense == "n" and g.chance(0.2)
    return f"{verb.en}.{polarity(negative)}", said(statement(who, verb, tense, negative, rest))


@template(5)
def because_clause(g: Context) -> tuple[str, Pair]:
    who, verb = subject(g, pairs=False), action(g)
    tense, negative = g.one("ppn"), g.chance(0.4)
    person = full_person(who)
    adjective = g.word([g.lexicon.adjective(w) for w in PASSING])
    cause_tense = "p" if tense == "p" else "n"
    about = pronoun(person)
    suffix = {"I": "ني", "we": "نا"}.get(person, arabic.SUFFIXES[person])
    predicate = adjective_predicate(adjective, about)
    link = "لأن" + suffix
    if cause_tense == "p":
        reason = f"{link} {arabic.past(arabic.BE, person)} {predicate['acc']}"
    else:
        reason = f"{link} {predicate['nom']}"
    cause = Pair(f"because {about.en} {english.be(person, cause_tense)} {adjective.en}", reason)
    pair = statement(who, verb, tense, negative, complement(g, verb)) + cause
    return f"{tense}.{polarity(negative)}", said(pair)


@template(4)
def part_of(g: Context) -> tuple[str, Pair]:
    """Idafa as a subject: `the door of the house is open`."""
    part, whole = g.one(PARTS)
    noun = g.word([g.lexicon.noun(part)])
    owner = noun_phrase(
        g.word([g.lexicon.noun(w) for w in whole.split()]), "s", g.one(("the", "the", "this"))
    )
    number = g.one("sssp")
    np = owned_by(noun, owner, number=number)
    adjective = g.adjective(noun, plural=number == "p")
    tense, negative = g.one("nnp"), g.chance(0.2)
    predicate = adjective_predicate(adjective, np)
    return f"{tense}.{polarity(negative)}", said(
        copular(np, predicate, adjective.en, tense, negative)
    )


PARTS = (
    ("door", "house school hotel library room office car shop factory palace"),
    ("window", "house school room kitchen office car train hospital"),
    ("wall", "house school castle palace museum"),
    ("key", "house room car office box shop"),
    ("street", "city village"),
    ("garden", "house school palace hotel university"),
    ("teacher", "school"),
    ("manager", "company bank hotel factory hospital restaurant museum"),
    ("driver", "car bus truck train"),
    ("employee", "company bank hotel"),
    ("worker", "factory farm"),
    ("guard", "museum bank palace"),
    ("room", "house hotel castle"),
    ("question", "exam lesson"),
    ("name", "book story city film"),
)


@template(3)
def part_as_object(g: Context) -> tuple[str, Pair]:
    part, whole = g.one(PARTS)
    noun = g.word([g.lexicon.noun(part)])
    owner = noun_phrase(
        g.word([g.lexicon.noun(w) for w in whole.split()]), "s", g.one(("the", "the", "this"))
    )
    np = owned_by(noun, owner, number=g.one("sssp"))
    fitting = [
        v
        for v in g.lexicon.verbs.values()
        if v.classes & noun.classes and not v.ar_prep and v.en not in ("sell", "buy", "love")
    ]
    verb = g.word(fitting)
    tense, negative = g.one("nppf"), g.chance(0.2)
    rest = Pair(f"{verb.en_prep} {np.en}".strip(), np.acc)
    return f"{tense}.{polarity(negative)}", said(statement(subject(g), verb, tense, negative, rest))
