"""English forms: articles, agreement, negation and questions with do-support."""

from __future__ import annotations

from hala_tools.miniature.lexicon import Verb, load

POSSESSIVES = {"I": "my", "you": "your", "he": "his", "she": "her", "we": "our", "they": "their"}


def article(words: str) -> str:
    """`a` or `an`, by the sound of the word that follows."""
    silent_h = words.startswith(("hour", "honest"))
    y_sound = words.startswith(("uni", "use"))
    vowel = words[0] in "aeiouAEIO" and not y_sound
    return ("an " if vowel or silent_h else "a ") + words


def number_words(n: int) -> str:
    numbers = load().numbers
    if n in numbers:
        return numbers[n][0]
    return f"{numbers[n - n % 10][0]}-{numbers[n % 10][0]}"


def be(person: str, tense: str) -> str:
    if tense == "f":
        return "will be"
    if tense == "p":
        return "was" if person in ("I", "he", "she") else "were"
    return {"I": "am", "he": "is", "she": "is"}.get(person, "are")


def predicate(verb: Verb, person: str, tense: str, negative: bool) -> str:
    """The verb group after its subject. Tenses: n habit, g now, p past, f future, w was doing."""
    third = person in ("he", "she")
    if verb.en == "can":
        word = "can" if tense == "n" else "could"
        return ("cannot" if word == "can" else "could not") if negative else word
    if tense in "gw":
        auxiliary = be(person, "n" if tense == "g" else "p")
        return f"{auxiliary} {'not ' if negative else ''}{verb.en_ing}"
    if tense == "f":
        return f"will {'not ' if negative else ''}{verb.en}"
    if negative:
        return {"p": "did not ", "n": "does not " if third else "do not "}[tense] + verb.en
    if tense == "p":
        return verb.en_past
    return verb.en_s if third else verb.en


def question(verb: Verb, subject: str, person: str, tense: str) -> str:
    """Auxiliary, subject, verb: `did Samir buy`."""
    if verb.en == "can":
        return f"can {subject}"
    if tense in "gw":
        return f"{be(person, 'n' if tense == 'g' else 'p')} {subject} {verb.en_ing}"
    if tense == "n":
        auxiliary = "does" if person in ("he", "she") else "do"
    else:
        auxiliary = {"p": "did", "f": "will"}[tense]
    return f"{auxiliary} {subject} {verb.en}"


def sentence(text: str, mark: str = ".") -> str:
    return text[0].upper() + text[1:] + mark


def listing(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"
