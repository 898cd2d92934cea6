"""The rows of one shard as they were read: dicts from text files, else an Arrow table.

Rows of tables stay in Arrow on their way to parquet, so that every type survives. They become
plain values only for JSON lines.
"""

import json
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol

import pyarrow as pa

from hala_engine.errors import JobError
from hala_engine.rows.characters import whole_characters_within

# Marks, in a schema, a column whose values are of several types and are written as JSON text.
JSON_TEXT = {b"hala.json": b"1"}


class Records(Protocol):
    """What the job needs of a shard's rows."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """One value a row, None where a row lacks it."""
        ...

    def dicts(self) -> list[dict]: ...

    def table(self, schema: pa.Schema) -> pa.Table: ...


class DictRecords:
    """Rows of a text file."""

    def __init__(self, rows: list[dict]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self._rows]

    def dicts(self) -> list[dict]:
        return self._rows

    def table(self, schema: pa.Schema) -> pa.Table:
        arrays = [to_column(self.column(field.name), field) for field in schema]
        names = [field.name for field in schema]
        return pa.table(dict(zip(names, arrays, strict=True)))


class TableRecords:
    """Rows of parquet and Arrow files."""

    def __init__(self, table: pa.Table):
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def column(self, name: str) -> list[Any]:
        return self._table.column(name).to_pylist()

    def dicts(self) -> list[dict]:
        return _without_nanoseconds(self._table).to_pylist()

    def table(self, schema: pa.Schema) -> pa.Table:
        """With nulls for columns that only other files of the job have."""
        names = set(self._table.column_names)
        columns = {
            field.name: self._table.column(field.name).cast(field.type)
            if field.name in names
            else pa.nulls(len(self), field.type)
            for field in schema
        }
        return pa.table(columns, schema=schema)


def to_column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """An Arrow column of JSON values. Raises JobError for a value that the field cannot hold."""
    if field.metadata == JSON_TEXT:
        values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
    elif pa.types.is_floating(field.type):
        values = [None if v is None else float(v) for v in values]
    try:
        return to_array(values, field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise JobError(
            f"column {field.name!r} cannot be written to parquet ({error}); use --format jsonl"
        ) from None


def to_array(values: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
    """An Arrow array of JSON values, with the characters that UTF-8 lacks replaced."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array(whole_characters_within(list(values)), kind)


def _without_nanoseconds(table: pa.Table) -> pa.Table:
    """Python's own times end at microseconds; finer ones become text."""
    for index, field in enumerate(table.schema):
        if getattr(field.type, "unit", None) == "ns":
            column = table.column(index).cast(pa.string())
            table = table.set_column(index, field.name, column)
    return table


def json_value(value: Any) -> Any:
    """`json.dumps(default=...)`: values that parquet has and JSON has not."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise JobError(f"a value of type {type(value).__name__} has no form in JSON")
