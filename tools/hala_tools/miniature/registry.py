"""The list of templates: a template draws one sentence pair; its variants have names of their own.

A template function takes a `Context` and returns (variant, pair); the pair is finished text. The
full template name in the corpus is `function` or `function.variant`.
"""

from __future__ import annotations

from collections.abc import Callable

from hala_tools.miniature import english
from hala_tools.miniature.phrases import Context, Pair

Template = Callable[[Context], tuple[str, Pair]]
TEMPLATES: dict[str, tuple[float, Template]] = {}


def template(weight: float) -> Callable[[Template], Template]:
    def register(function: Template) -> Template:
        TEMPLATES[function.__name__] = (weight, function)
        return function

    return register


def said(pair: Pair) -> Pair:
    return Pair(english.sentence(pair.en), pair.ar + ".")


def asked(pair: Pair) -> Pair:
    return Pair(english.sentence(pair.en, "?"), pair.ar + "؟")


def polarity(negative: bool) -> str:
    return "neg" if negative else "pos"
