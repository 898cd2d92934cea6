"""A recipe's TOML: reading it, the command line's overrides, and what a resumed run may change."""

import difflib
import json
import math
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from hala_trainer.config import (
    FREE_ON_RESUME,
    SECTIONS,
    DataConfig,
    Recipe,
    SourceConfig,
    check,
)
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
    except (tomllib.TOMLDecodeError, KeyError) as error:
        value = text.strip()  # a bare word is a string
        if value.startswith(("[", "{")):
            raise InputError(f"{override!r}: not valid TOML: {error}") from None
    values = table.setdefault(section, {})
    if not isinstance(values, dict):
        raise InputError(f"[{section}] must be a table of keys")
    values[name] = value


def _section(name: str, cls: type, table: dict) -> Any:
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise InputError(f"[{name}] must be a table of keys")
    return _filled(name, cls, given)


def _filled(name: str, cls: type, given: dict) -> Any:
    """The dataclass `cls` with the given values; `name` is where they stand in the recipe."""
    kinds = {f.name: f.type for f in fields(cls)}
    known = list(kinds)
    if cls is DataConfig:  # a source's key, given to all of them
        known += [f"train[1].{f.name}" for f in fields(SourceConfig)]
    for key in given:
        if key not in kinds:
            raise InputError(_unknown("key", key, known, prefix=f"{name}."))
    return cls(**{k: _typed(f"{name}.{k}", v, kinds[k]) for k, v in given.items()})


def _unknown(what: str, name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {what} {prefix}{name}; did you mean {prefix}{near[0]}?"


def _typed(key: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        values = value if isinstance(value, list) else [value]
        return [_typed(f"{key}[{n}]", v, inner) for n, v in enumerate(values, 1)]
    if is_dataclass(kind):
        if not isinstance(value, str | dict):
            raise InputError(f"{key} must be a path, or a table with one, not {_toml(value)}")
        return _filled(key, kind, {"path": value} if isinstance(value, str) else value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{key} must be {kind.__name__}, not {_toml(value)}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{key} must be a finite number, not {value}")
    return value


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, every key written out but those of a source that have their default."""
    lines = []
    for section in SECTIONS:
        values = getattr(recipe, section)
        lines.append(f"[{section}]")
        lines += [f"{f.name} = {_toml(getattr(values, f.name))}" for f in fields(values)]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, SourceConfig):
        keys = {f.name: v for f in fields(value) if (v := getattr(value, f.name)) != f.default}
        value = value.path if set(keys) <= {"path"} else keys
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON spells strings, numbers and booleans as TOML does, but for one control character.
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


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
                    f"{resolved.parent} holds a run with {name} = {_toml(before)}, now "
                    f"{_toml(value)}; "
                    "set it back to resume, or choose another train.out"
                )
