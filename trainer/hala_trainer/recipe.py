"""A recipe's TOML: reading it, the command line's overrides, and what a resumed run may change."""

import dataclasses
import difflib
import json
import math
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

from hala_trainer.config import FREE_ON_RESUME, SECTIONS, Recipe, check
from hala_trainer.errors import InputError


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Raises InputError, one line, for whatever is wrong in the file or the overrides."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(table, override)
    unknown = set(table) - set(SECTIONS)
    if unknown:
        raise InputError(_unknown("section", min(unknown), list(SECTIONS)))
    recipe = Recipe(**{name: _section(name, cls, table) for name, cls in SECTIONS.items()})
    check(recipe)
    return recipe


def _apply_override(table: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise InputError(f"{override!r}: an override is section.key=value, e.g. optim.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = text.strip()  # a bare word is a string
    values = table.setdefault(section, {})
    if not isinstance(values, dict):
        raise InputError(f"[{section}] must be a table of keys")
    values[name] = value


def _section(name: str, cls: type, table: dict) -> Any:
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise InputError(f"[{name}] must be a table of keys")
    kinds = {f.name: f.type for f in fields(cls)}
    for key in given:
        if key not in kinds:
            raise InputError(_unknown("key", key, list(kinds), prefix=f"{name}."))
    return cls(**{k: _typed(f"{name}.{k}", v, kinds[k]) for k, v in given.items()})


def _unknown(what: str, name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {what} {prefix}{name}; did you mean {prefix}{near[0]}?"


def _typed(key: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        values = value if isinstance(value, list) else [value]
        return [_typed(key, v, inner) for v in values]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{key} must be {kind.__name__}, not {json.dumps(value, default=str)}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{key} must be a finite number, not {value}")
    return value


def to_toml(recipe: Recipe) -> str:
    """Values are strings, numbers, booleans and lists of them, which JSON spells as TOML does."""
    lines = []
    for section, values in dataclasses.asdict(recipe).items():
        lines.append(f"[{section}]")
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()]
        lines.append("")
    return "\n".join(lines)


def refuse_changed(recipe: Recipe, resolved: Path) -> None:
    """Refuse to resume a run whose recipe changed in a way that would make it another run."""
    try:
        old = tomllib.loads(resolved.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise InputError(
            f"{resolved}: damaged, so what run this directory holds is not known; "
            "mend it, or choose another train.out"
        ) from None
    new = tomllib.loads(to_toml(recipe))
    for section, values in new.items():
        for key, value in values.items():
            before = old.get(section, {}).get(key, value)
            name = f"{section}.{key}"
            if before != value and section not in FREE_ON_RESUME and name not in FREE_ON_RESUME:
                raise InputError(
                    f"{resolved.parent} holds a run with {name} = {before!r}, now {value!r}; "
                    "set it back to resume, or choose another train.out"
                )
