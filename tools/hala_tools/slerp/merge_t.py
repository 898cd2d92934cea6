"""t as merge files spell it: a number, a gradient, or a list of rules with filters."""

from __future__ import annotations

import math
from contextlib import suppress

from hala_tools.slerp.factor import Rule
from hala_tools.slerp.merge_yaml import Entry, short


def read_t(owner: Entry) -> tuple[Rule, ...]:
    """t in the `parameters` of `owner`; empty where nothing is said of it."""
    parameters = owner.get("parameters")
    if parameters is None:
        return ()
    parameters.check_keys(("t",))
    if "t" not in parameters.mapping():
        return ()
    entry = parameters.at("t")
    if isinstance(entry.value, dict):
        return (_rule(entry),)
    if isinstance(entry.value, list) and any(isinstance(item, dict) for item in entry.value):
        return tuple(_rule(item) for item in entry.items())
    values = _values(entry)
    return (Rule(values),) if values else ()


def write_t(rules: tuple[Rule, ...]) -> object:
    """The value of `t` that stands for `rules`."""
    if len(rules) == 1 and rules[0].filter is None:
        return _value(rules[0])
    return [
        ({} if rule.filter is None else {"filter": rule.filter}) | {"value": _value(rule)}
        for rule in rules
    ]


def _rule(entry: Entry) -> Rule:
    entry.check_keys(("filter", "value"))
    value = entry.require("value", "give a number or a list of numbers")
    values = _values(value)
    if not values:
        raise value.error("is an empty list; give a number or a list of numbers")
    name = entry.at("filter")
    if not isinstance(name.value, str | None):
        raise name.error(f"must be text, not {short(name.value)}; put it in quotes")
    return Rule(values, None if name.value in ("", "*") else name.value)


def _values(entry: Entry) -> tuple[float, ...]:
    items = entry.items() if isinstance(entry.value, list) else [entry]
    return tuple(_number(item) for item in items)


def _value(rule: Rule) -> float | list[float]:
    return rule.values[0] if len(rule.values) == 1 else list(rule.values)


def _number(entry: Entry) -> float:
    """A finite number. YAML reads 1e-3 as text; MergeKit takes it for a number all the same."""
    number = math.nan
    if isinstance(entry.value, int | float | str) and not isinstance(entry.value, bool):
        with suppress(ValueError, OverflowError):
            number = float(entry.value)
    if not math.isfinite(number):
        raise entry.error(f"must be a finite number, not {short(entry.value)}")
    return number
