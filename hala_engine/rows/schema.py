"""The types of the columns of text files, found while their rows are read once."""

from typing import Any

import pyarrow as pa

from hala_engine.rows.records import JSON_TEXT, to_array

_CHUNK = 1000
_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class SchemaFinder:
    """Sees every row once; a column whose values have no common type is written as JSON text."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType | None] = {}
        self._chunk: list[dict] = []

    def add(self, row: dict) -> None:
        self._chunk.append(row)
        if len(self._chunk) == _CHUNK:
            self._take_chunk()

    def schema(self) -> pa.Schema:
        self._take_chunk()
        return pa.schema(
            pa.field(name, kind)
            if kind is not None and _writable(kind)
            else pa.field(name, pa.string(), metadata=JSON_TEXT)
            for name, kind in self._types.items()
        )

    def _take_chunk(self) -> None:
        names = dict.fromkeys(name for row in self._chunk for name in row)
        for name in names:
            seen = self._types.get(name, pa.null())
            self._types[name] = seen and _common(seen, [row.get(name) for row in self._chunk])
        self._chunk = []


def _plain_type(values: list[Any]) -> pa.DataType | None:
    """The type of values that are all of one plain kind, which needs no array: making the first
    one imports pandas, and takes a third of a second."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) != 1:
        return None
    [kind] = kinds
    if kind is int and not all(-(2**63) <= value < 2**63 for value in values if value is not None):
        return None
    return _PLAIN.get(kind)


def _common(seen: pa.DataType, values: list[Any]) -> pa.DataType | None:
    """The type that holds both what was seen before and these values; None without one."""
    try:
        new = _plain_type(values) or to_array(values).type
        schemas = [pa.schema([("", kind)]) for kind in (seen, new)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None


def _writable(kind: pa.DataType) -> bool:
    """Parquet has no struct without fields."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_writable(field.type) for field in kind.fields)
    return not pa.types.is_list(kind) or _writable(kind.value_type)
