"""Sampling the corpus, the held-out split, and the training rows.

The split is by combination: each (content word, template) pair has a stable hash, and about 3% of
them are held out. A sentence that contains a held-out combination never enters training. A held-out
sentence is kept only when each of its words occurs in training in another template and its template
occurs in training with other words, so it asks for a new combination of known parts.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hala_tools.miniature.agreement import AGREEMENT_SENTENCES
from hala_tools.miniature.grammar import Grammar, Sentence

DEFAULT_SIZE = 220_000
HELD_OUT_SHARE = 0.03
HELD_OUT_KEPT = 4_000
TATOEBA_REPEATS = 3
SMALL_REPEATS = 3
CONTRACTIONS = (
    (" did not ", " didn't "), (" do not ", " don't "), ("Do not ", "Don't "),
    (" does not ", " doesn't "), (" is not ", " isn't "), (" are not ", " aren't "),
    (" was not ", " wasn't "), (" were not ", " weren't "), (" will not ", " won't "),
    (" cannot ", " can't "), ("I am ", "I'm "), ("He is ", "He's "), ("She is ", "She's "),
    ("They are ", "They're "), ("We are ", "We're "), ("You are ", "You're "),
    ("Let us ", "Let's "), ("What is ", "What's "), ("Where is ", "Where's "),
)  # fmt: skip
PROMPTS = {
    "ar": "Translate from English to Arabic: {}",
    "en": "Translate from Arabic to English: {}",
}


@dataclass
class Corpus:
    train: list[Sentence]
    heldout: list[Sentence]
    refused: Counter = field(default_factory=Counter)


def held_out(combination: tuple[str, str]) -> bool:
    """A stable choice that does not depend on seed, size or Python's hash."""
    digest = hashlib.sha256("\t".join(combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def build_corpus(
    size: int = DEFAULT_SIZE, seed: int = 0, excluded: Sequence[str] = AGREEMENT_SENTENCES
) -> Corpus:
    """Draw until `size` distinct pairs stand in training; each text has one translation."""
    grammar = Grammar(seed)
    to_arabic: dict[str, str] = {}
    to_english: dict[str, str] = {}
    train: list[Sentence] = []
    held: list[Sentence] = []
    refused: Counter = Counter()
    kept = min(HELD_OUT_KEPT, max(20, size // 20))
    for _ in range(size * 20):
        if len(train) >= size:
            break
        sentence = grammar.sentence()
        if sentence.en in to_arabic or sentence.ar in to_english:
            same = to_arabic.get(sentence.en) == sentence.ar
            refused["repeated" if same else "second translation"] += 1
            continue
        if any(text in sentence.en for text in excluded):
            refused["excluded"] += 1
            continue
        to_arabic[sentence.en] = sentence.ar
        to_english[sentence.ar] = sentence.en
        (held if any(map(held_out, sentence.combinations)) else train).append(sentence)
    fair = _known_parts(held, train)
    refused["held out, parts unknown"] = len(held) - len(fair)
    random.Random(seed).shuffle(fair)
    return Corpus(train, fair[:kept], refused)


def _known_parts(held: Sequence[Sentence], train: Sequence[Sentence]) -> list[Sentence]:
    templates_of: dict[str, set[str]] = defaultdict(set)
    words_of: dict[str, set[str]] = defaultdict(set)
    for sentence in train:
        for word in sentence.words:
            templates_of[word].add(sentence.template)
            words_of[sentence.template].add(word)

    def known(sentence: Sentence) -> bool:
        return all(templates_of[w] - {sentence.template} for w in sentence.words) and bool(
            words_of[sentence.template] - set(sentence.words)
        )

    return [s for s in held if known(s)]


def strip_marks(arabic: str) -> str:
    """Remove harakat, tatweel and other combining marks; the corpus is unvocalised."""
    return "".join(c for c in arabic if c != "\u0640" and not unicodedata.combining(c))


def read_tatoeba(path: Path, *, strip: bool) -> list[tuple[str, str]]:
    """(English, Arabic) pairs of a tab-separated file; further columns are attribution."""
    pairs = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            columns = line.rstrip("\n").split("\t")
            if len(columns) < 2:
                raise ValueError(f"{path}:{number}: expected English and Arabic separated by a tab")
            arabic = strip_marks(columns[1]) if strip else columns[1]
            pairs.append((columns[0], arabic))
    return pairs


def messages(source: str, answer: str, target: str) -> dict[str, list[dict[str, str]]]:
    return {
        "messages": [
            {"role": "user", "content": PROMPTS[target].format(source)},
            {"role": "assistant", "content": answer},
        ]
    }


def training_rows(
    sentences: Sequence[Sentence], tatoeba: Sequence[tuple[str, str]], seed: int
) -> list[dict]:
    """Both directions of every pair, Tatoeba repeated, about 3% more with varied input.

    Templates with few distinct pairs (capitals, weekdays) are repeated, or they would hardly be
    seen beside the large ones.
    """
    rng = random.Random(seed + 1)
    count = Counter(sentence.template for sentence in sentences)
    pairs = [
        (s.en, s.ar)
        for s in sentences
        for _ in range(SMALL_REPEATS if count[s.template] * 2000 < len(sentences) else 1)
    ]
    rows = []
    for en, ar in [*pairs, *(list(tatoeba) * TATOEBA_REPEATS)]:
        rows.append(messages(en, ar, "ar"))
        rows.append(messages(ar, en, "en"))
        if rng.random() < 0.06:  # one row each, so 3% of the rows
            rows.append(_varied(en, ar, rng))
    rng.shuffle(rows)
    return rows


def _varied(en: str, ar: str, rng: random.Random) -> dict:
    """Input contracted, without its full stop (then the answer has none), or in small letters."""
    contracted = en
    for full, short in CONTRACTIONS:
        contracted = contracted.replace(full, short)
    if contracted != en and rng.random() < 0.5:
        return messages(contracted, ar, "ar")
    bare = en.endswith(".") and ar.endswith(".")
    kind = rng.choice(("bare to ar", "bare to en", "small", "small and bare"))
    if kind == "small" or not bare:
        return messages(en[0].lower() + en[1:], ar, "ar")
    if kind == "bare to ar":
        return messages(en[:-1], ar[:-1], "ar")
    if kind == "bare to en":
        return messages(ar[:-1], en[:-1], "en")
    return messages(en[0].lower() + en[1:-1], ar[:-1], "ar")


def write_jsonl(path: Path, rows: Iterable[dict]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def pair_rows(sentences: Iterable[Sentence]) -> Iterable[dict]:
    return ({"en": s.en, "ar": s.ar, "template": s.template} for s in sentences)
