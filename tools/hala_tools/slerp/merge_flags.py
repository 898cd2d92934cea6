"""The interpolation factor as the command line's flags give it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.factor import Rule, Slice


def parse_factor(t: str, filters: Sequence[str]) -> tuple[Slice, ...]:
    """All layers as one slice, from `--t` and each `--t-filter` in the order given.

    `t`: a number, or several with commas between, the gradient over the layers. A filter is
    NAME=VALUES, for the tensors with NAME in their name (`*`: all). The first that matches decides,
    and `t` decides for the rest. Raises InputError, which names the flag.
    """
    rules = [_rule(text) for text in filters]
    return (Slice((*rules, Rule(_values("--t", t, t)))),)


def _rule(text: str) -> Rule:
    flag = "--t-filter"
    name, equals, values = (part.strip() for part in text.rpartition("="))
    if not equals:
        raise InputError(f"{flag} {text!r} has no '='; write NAME=VALUES, as in self_attn=0,0.5,1")
    if not name:
        raise InputError(f"{flag} {text!r} has no name before '='; --t is for all other tensors")
    return Rule(_values(flag, text, values), None if name == "*" else name)


def _values(flag: str, given: str, values: str) -> tuple[float, ...]:
    return tuple(_number(flag, given, value) for value in values.split(","))


def _number(flag: str, given: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{flag} {given!r}: {text!r} is not a finite number; give one, or several with commas "
            "between"
        )
    return number
