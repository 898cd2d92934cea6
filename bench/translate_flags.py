"""`python -m bench.translate_flags`: how often the checks flag good and damaged translations.

Human English-Arabic pairs (Tatoeba, XQuAD) in both directions: what is flagged there is a false
alarm or a bad pair, so there are examples to look at. Then the same pairs with one damage each:
what is flagged there has been found. A damage is done only to the pairs that it changes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from bench import machine
from hala_engine.translate.checks import flags_of
from hala_engine.translate.masking import mask
from hala_engine.translate.structure import same_structure

DATA = Path("../shared/data")
DIRECTIONS = (("en", "ar"), ("ar", "en"))
EXAMPLES = 5
SHOWN_CHARACTERS = 160
TARGET_RATE = 0.01

Pair = tuple[str, str]
Result = dict[str, Any]


def human_pairs(data: Path) -> dict[str, list[Pair]]:
    """(English, Arabic) of each set. FileNotFoundError where the data is missing."""
    paragraphs = [
        json.loads(line) for line in (data / "xquad/dev.jsonl").read_text("utf-8").splitlines()
    ]
    return {
        "Tatoeba train": _tatoeba(data / "tatoeba/train.tsv"),
        "Tatoeba dev": _tatoeba(data / "tatoeba/dev.tsv"),
        "XQuAD paragraphs": [(row["en"], row["ar"]) for row in paragraphs],
        "XQuAD questions": [(q["en"], q["ar"]) for row in paragraphs for q in row["questions"]],
    }


def _tatoeba(path: Path) -> list[Pair]:
    lines = path.read_text("utf-8").splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


class Case(NamedTuple):
    """A human pair of one direction, and a statement of the target language."""

    source: str
    translation: str
    target: str
    statement: str


class Damage(NamedTuple):
    """What is done to a case's source and translation, None where it does not apply; and the flag
    that it should get."""

    flag: str
    do: Callable[[Case], Pair | None]


def _damage(flag: str, change: Callable[[Case], str | None]) -> Damage:
    """A damage of the translation alone."""

    def do(case: Case) -> Pair | None:
        changed = change(case)
        return None if changed is None or changed == case.translation else (case.source, changed)

    return Damage(flag, do)


def _cut(case: Case) -> str:
    return case.translation[: len(case.translation) * 2 // 5]


def _longer(case: Case) -> str:
    words = case.translation.split()
    return " ".join([*words, *reversed(words), *words[::2]])


def _halves(case: Case, least_words: int) -> str | None:
    """The first half of the translation and the second half of the source."""
    words, source = case.translation.split(), case.source.split()
    if len(source) < least_words:
        return None
    return " ".join(words[: len(words) // 2] + source[len(source) // 2 :])


def _question(case: Case, statement: Callable[[Case], str]) -> str | None:
    is_question = case.source.rstrip().endswith(("?", "؟"))
    return statement(case) if is_question else None


def _formula(case: Case) -> Pair:
    """A formula in both texts, without its last brace in the translation."""
    formula = "\\frac{a}{b}"
    return f"{case.source} {formula}", f"{case.translation} {formula[:-1]}"


def _between_sentences(case: Case, mark: str) -> str:
    return case.translation.replace(". ", f".{mark}")


def _in(target: str, arabic: str, english: str) -> str:
    return arabic if target == "ar" else english


DAMAGES = {
    "cut to 40%, from 60 characters": _damage(
        "length_ratio", lambda c: _cut(c) if len(c.source) >= 60 else None
    ),
    "cut to 40%, under 60 characters": _damage(
        "length_ratio", lambda c: _cut(c) if len(c.source) < 60 else None
    ),
    "2.5 times as long": _damage("length_ratio", _longer),
    "phrase of 3 words 8 times": _damage(
        "repetition", lambda c: f"{c.translation} " + " ".join(c.translation.split()[:3] * 8)
    ),
    "one word 12 times": _damage(
        "repetition", lambda c: f"{c.translation} " + " ".join(c.translation.split()[-1:] * 12)
    ),
    "the whole 4 times": _damage("repetition", lambda c: "\n".join([c.translation] * 4)),
    "one letter 40 times": _damage("repetition", lambda c: c.translation + c.translation[0] * 40),
    "the source": _damage("untranslated", lambda c: c.source),
    "half the source, from 16 words": _damage("untranslated", lambda c: _halves(c, 16)),
    "half the source, under 16 words": _damage(
        "untranslated", lambda c: _halves(c, 4) if len(c.source.split()) < 16 else None
    ),
    "a Chinese word": _damage("wrong_script", lambda c: f"{c.translation} 但是"),
    "a Russian word": _damage("wrong_script", lambda c: f"{c.translation} который"),
    "nothing": _damage("empty", lambda c: ""),
    "Here is the translation": _damage(
        "preface",
        lambda c: (
            _in(c.target, "إليك الترجمة إلى العربية:\n", "Here is the translation:\n")
            + c.translation
        ),
    ),
    "Translation:": _damage(
        "preface", lambda c: _in(c.target, "الترجمة: ", "Translation: ") + c.translation
    ),
    "Sure!": _damage("preface", lambda c: _in(c.target, "بالتأكيد! ", "Sure! ") + c.translation),
    "Note: ...": _damage(
        "preface",
        lambda c: (
            c.translation
            + _in(c.target, "\n\nملاحظة: حافظت على الأسلوب.", "\n\nNote: I kept the style.")
        ),
    ),
    "question answered by a statement": _damage(
        "answered", lambda c: _question(c, lambda c: c.statement)
    ),
    "question answered by yes": _damage(
        "answered",
        lambda c: _question(c, lambda c: _in(c.target, "نعم، هذا صحيح.", "Yes, that is right.")),
    ),
    "declined": _damage(
        "answered",
        lambda c: _in(
            c.target,
            "عذراً، لا يمكنني المساعدة في هذا الطلب.",
            "I'm sorry, but I can't help with this request.",
        ),
    ),
    "speaks of itself": _damage(
        "answered",
        lambda c: _in(c.target, "كنموذج لغوي، ليس لدي رأي.", "As an AI, I have no opinion."),
    ),
    "code for prose": _damage("answered", lambda c: "```python\nprint('hello')\n```"),
    "\\n as text": _damage("markup_broken", lambda c: _between_sentences(c, "\\n")),
    "<br>": _damage("markup_broken", lambda c: _between_sentences(c, "<br>")),
    "a brace lost": Damage("markup_broken", _formula),
    "<|im_end|>": _damage("markup_broken", lambda c: f"{c.translation}<|im_end|>"),
    "U+FFFD": _damage("markup_broken", lambda c: c.translation[:-1] + "\ufffd"),
}


def flagged_humans(sets: dict[str, list[Pair]]) -> list[Result]:
    """For each set and direction: pairs, microseconds a pair, how many have each flag."""
    found = []
    for name, pairs in sets.items():
        for source, target in DIRECTIONS:
            hits: dict[str, list[list[str]]] = defaultdict(list)
            start = time.perf_counter()
            for text, translation in _directed(pairs, target):
                for flag in _flags(text, translation, source, target):
                    hits[flag].append([text[:SHOWN_CHARACTERS], translation[:SHOWN_CHARACTERS]])
            seconds = time.perf_counter() - start
            found.append(
                {
                    "set": name,
                    "direction": f"{source}-{target}",
                    "pairs": len(pairs),
                    "us_per_pair": 1e6 * seconds / len(pairs),
                    "flags": {
                        flag: {
                            "count": len(examples),
                            "rate": len(examples) / len(pairs),
                            "examples": examples[:EXAMPLES],
                        }
                        for flag, examples in sorted(hits.items())
                    },
                }
            )
    return found


def _flags(text: str, translation: str, source: str, target: str) -> list[str]:
    """As the job finds them, had a model written the translation at once."""
    origin, result = mask(text), mask(translation)
    return flags_of(
        origin.text,
        result.text,
        source,
        target,
        placeholder_lost=sorted(origin.spans) != sorted(result.spans),
        structure_lost=not same_structure(origin.text, result.text),
    )


def detection(sets: dict[str, list[Pair]]) -> list[Result]:
    """For each damage and direction: damaged pairs, the part of them that gets the flag meant for
    it, and the part that gets any."""
    found = []
    for name, damage in DAMAGES.items():
        for source, target in DIRECTIONS:
            counts: Counter[str] = Counter()
            for pair in filter(None, map(damage.do, _cases(sets, target))):
                flags = flags_of(*pair, source, target)
                counts.update(pairs=1, meant=damage.flag in flags, any=bool(flags))
            found.append(
                {
                    "damage": name,
                    "direction": f"{source}-{target}",
                    "pairs": counts["pairs"],
                    "flag": damage.flag,
                    "found": counts["meant"] / counts["pairs"],
                    "any_flag": counts["any"] / counts["pairs"],
                }
            )
    return found


def _directed(pairs: Iterable[Pair], target: str) -> list[Pair]:
    return [pair if target == "ar" else (pair[1], pair[0]) for pair in pairs]


def _cases(sets: dict[str, list[Pair]], target: str) -> Iterable[Case]:
    statements = [
        text
        for _, text in _directed(sets["Tatoeba train"], target)
        if not text.rstrip().endswith(("?", "؟"))
    ]
    for pairs in sets.values():
        for index, (source, translation) in enumerate(_directed(pairs, target)):
            yield Case(source, translation, target, statements[-1 - index % len(statements)])


def _print(result: Result) -> None:
    console = Console()
    for entry in result["false_alarms"]:
        rates = ", ".join(f"{flag} {hit['rate']:.2%}" for flag, hit in entry["flags"].items())
        console.print(
            f"{entry['set']}, {entry['direction']} ({entry['pairs']}; "
            f"{entry['us_per_pair']:.0f} us each): {rates or 'no flag'}",
            highlight=False,
            soft_wrap=True,
        )
        for flag, hit in entry["flags"].items():
            for pair in hit["examples"]:
                console.print(f"  {flag}: {' | '.join(pair)}", highlight=False, markup=False)
    for entry in result["detection"]:
        console.print(
            f"{entry['damage']}, {entry['direction']} ({entry['pairs']}): {entry['flag']} "
            f"{entry['found']:.1%}, any flag {entry['any_flag']:.1%}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.translate_flags", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"--data {options.data}: no such directory")
    sets = human_pairs(options.data)
    result: Result = {
        "bench": "translate_flags",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.cpu(),
        "versions": machine.versions(),
        **machine.commit(),
        "false_alarms": flagged_humans(sets),
        "detection": detection(sets),
    }
    _print(result)
    for entry in result["false_alarms"]:
        for hit in entry["flags"].values():
            del hit["examples"]  # the data stays where it is
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    rates = [hit["rate"] for entry in result["false_alarms"] for hit in entry["flags"].values()]
    return int(max(rates, default=0.0) >= TARGET_RATE)


if __name__ == "__main__":
    sys.exit(main())
