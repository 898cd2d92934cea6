"""One random sentence pair of the grammar, with the combinations of word and template it uses."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hala_tools.miniature import facts, nominal, relations, texts, verbal  # noqa: F401 (register)
from hala_tools.miniature.lexicon import Lexicon, load
from hala_tools.miniature.phrases import Context, Impossible
from hala_tools.miniature.registry import TEMPLATES


@dataclass(frozen=True)
class Sentence:
    en: str
    ar: str
    template: str
    words: tuple[str, ...]

    @property
    def combinations(self) -> tuple[tuple[str, str], ...]:
        return tuple((word, self.template) for word in self.words)


class Grammar:
    """An endless source of sentences; the same seed gives the same ones."""

    def __init__(self, seed: int, lexicon: Lexicon | None = None) -> None:
        self.lexicon = lexicon or load()
        self.rng = random.Random(seed)
        # By module, since the order of registration depends on who imported what first.
        self.names = sorted(TEMPLATES, key=lambda name: TEMPLATES[name][1].__module__)
        self.weights = [TEMPLATES[name][0] for name in self.names]

    def sentence(self, template: str | None = None) -> Sentence:
        while True:
            chosen = template or self.rng.choices(self.names, self.weights)[0]
            context = Context(self.lexicon, self.rng)
            try:
                variant, pair = TEMPLATES[chosen][1](context)
            except Impossible:
                continue
            full = f"{chosen}.{variant}" if variant else chosen
            words = tuple(dict.fromkeys(context.words))
            return Sentence(pair.en, pair.ar, full, words)
