"""YAML whose every value knows where it stands, so that an error can name the place."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hala_tools.slerp.errors import InputError

_REPR = reprlib.Repr()
_REPR.maxstring = 100  # a path or hub id in full


@dataclass(frozen=True)
class Entry:
    """A value of `file` and its place: `key`, such as `slices[0].sources`; empty for the whole."""

    file: Path
    key: str
    value: object

    def error(self, message: str) -> InputError:
        """`message` goes on from the key: 'must be ...', 'is ...'."""
        place = f"{self.key} " if self.key else ""
        return InputError(f"{self.file}: {place}{message}")

    def at(self, name: object) -> Entry:
        """The value of key `name` in this mapping, null if it has none."""
        plain = isinstance(name, str) and name.isprintable() and len(name) < 40
        key = str(name) if plain else short(name)
        key = f"{self.key}.{key}" if self.key else key
        return Entry(self.file, key, self.mapping().get(name))

    def get(self, name: str) -> Entry | None:
        """As `at`; null is as good as absent."""
        entry = self.at(name)
        return None if entry.value is None else entry

    def require(self, name: str, advice: str = "add it") -> Entry:
        entry = self.at(name)
        if entry.value is None:
            raise entry.error(f"is missing; {advice}")
        return entry

    def check_keys(
        self, known: Collection[str], unsupported: Mapping[str, str] | None = None
    ) -> None:
        """Refuse keys other than the `known`. `unsupported`: keys of the format that are refused
        unless null -> why."""
        unsupported = unsupported or {}
        for name, value in self.mapping().items():
            if name in unsupported and value is not None:
                raise self.at(name).error(unsupported[name])
            if name in known or name in unsupported:
                continue
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise self.at(name).error(f"is not a known key; {hint}")

    def items(self) -> list[Entry]:
        """The entries of this list."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {short(self.value)}")
        return [Entry(self.file, f"{self.key}[{n}]", item) for n, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"must be text, not {short(self.value)}; put a name in quotes")
        return self.value

    def mapping(self) -> dict:
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping of keys to values, not {short(self.value)}")
        return self.value


def short(value: object) -> str:
    """`value` on one line, cut where it is long."""
    return "nothing" if value is None else _REPR.repr(value)


def load(path: Path) -> Entry:
    """The mapping that the YAML file `path` holds.

    Raises InputError, one line, for a file that cannot be read, is no YAML, holds no mapping, or
    has a key twice in one mapping, where a YAML reader would silently take the last.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the merge file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise InputError(f"{path}: the file is empty; write a merge configuration into it")
        _refuse_repeated_keys(root, path)
        value = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {_problem(error)}") from None
    except ValueError as error:  # of a date such as 2024-99-99
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not a merge file: nested too deep") from None
    entry = Entry(path, "", value)
    entry.mapping()
    return entry


def _refuse_repeated_keys(root: yaml.Node, path: Path) -> None:
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):  # aliases may go in a circle
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            nodes.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise InputError(
                    f"{path}: line {line}: key {short(key.value)} stands in line "
                    f"{lines[key.value]} already; remove one of the two"
                )
            lines[key.value] = line


def _problem(error: yaml.YAMLError) -> str:
    """What the parser says, on one line."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    said = getattr(error, "problem", None) or str(error)
    return f"{where}not valid YAML: {' '.join(said.split())}"


def dump(config: dict) -> str:
    """`config` as YAML, with lists of numbers on one line."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _list(dumper: _Dumper, items: list) -> yaml.Node:
    numbers = all(isinstance(item, int | float) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # Unquoted, some of the odd characters would be read as line ends.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
