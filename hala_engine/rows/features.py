"""The columns of JSON lines in the words of `datasets`, for a dataset card.

Without them `datasets` takes types from the first file, and refuses a later one in which a column
that was all nulls or empty lists has values.
"""

from typing import Any

import pyarrow as pa
import pyarrow.types as is_

from hala_engine.rows.columns import is_list
from hala_engine.rows.records import JSON_TEXT

_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def json_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """What a card's `dataset_info` has under `features`; a column of mixed types is `json`."""
    return [
        {"name": field.name, "dtype": "json"}
        if field.metadata == JSON_TEXT
        else {"name": field.name} | _feature(field.type)
        for field in schema
    ]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if is_list(kind):
        inner = _feature(kind.value_type)
        # A list of lists keeps the inner word; one of values or of objects does not.
        return {"list": inner if "list" in inner else next(iter(inner.values()))}
    if is_.is_struct(kind):
        return {"struct": [{"name": field.name} | _feature(field.type) for field in kind]}
    return {"dtype": _dtype(kind)}


def _dtype(kind: pa.DataType) -> str:
    """Of the value as JSON lines hold it: what JSON has no form for is text."""
    if is_.is_dictionary(kind):
        return _dtype(kind.value_type)
    if is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_null(kind):
        return str(kind)
    if is_.is_floating(kind):
        return _FLOATS[str(kind)]
    if is_.is_duration(kind):
        return "float64"  # seconds
    return "json" if is_.is_map(kind) else "string"
