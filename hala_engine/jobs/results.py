"""What a job makes of one row."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hala_engine.errors import InputError

ROW_INFO = "_hala"


@dataclass
class RowResult:
    """What is added to one row.

    values: the new columns. failures: (column, reason) of the cells without a result. folder: of
    the output, where the row goes; None leaves it out. scores: by the names of the job's `scores`.
    """

    values: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    folder: str | None = "data"
    scores: dict[str, float | None] = field(default_factory=dict)

    def info(self, row_id: int) -> dict[str, Any]:
        """What stands under `_hala`."""
        return {
            "id": row_id,
            "flags": self.flags,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            **self.scores,
        }

    def added_to(self, info: dict[str, Any], row_id: int) -> dict[str, Any]:
        """The same beside what an earlier job wrote there."""
        flags = list(dict.fromkeys([*(info.get("flags") or []), *self.flags]))
        return self.info(row_id) | info | {"flags": flags} | self.scores


def output_schema(
    schema: pa.Schema, added: dict[str, str | None], scores: tuple[str, ...]
) -> pa.Schema:
    """The output's columns where the input has `schema`; `added` and `scores` are a job's.

    `_hala` is the last, or where it was. Raises InputError for one that no job has written.
    """
    text = pa.field("", pa.string())
    for name, like in added.items():
        schema = schema.append((schema.field(like) if like else text).with_name(name))
    fields = {ours.name: ours for ours in _info_fields(scores)}
    place = schema.get_field_index(ROW_INFO)
    if place < 0:
        return schema.append(pa.field(ROW_INFO, pa.struct(list(fields.values()))))
    earlier = schema.field(place).type
    if not pa.types.is_struct(earlier):
        raise _no_info(f"is {earlier}")
    for was in earlier:
        fields[was.name] = _both(fields.get(was.name, was), was)
    return schema.set(place, pa.field(ROW_INFO, pa.struct(list(fields.values()))))


def _both(ours: pa.Field, earlier: pa.Field) -> pa.Field:
    """A field that holds our values and those of an earlier job, which may have had none."""
    try:
        schemas = [pa.schema([ours]), pa.schema([earlier])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0)
    except pa.ArrowException:
        raise _no_info(f"has {earlier.name!r} of type {earlier.type}") from None


def _no_info(what: str) -> InputError:
    return InputError(f"column {ROW_INFO!r} {what}, which no job writes; drop or rename it")


def _info_fields(scores: tuple[str, ...]) -> list[pa.Field]:
    return [
        pa.field("id", pa.int64()),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        *(pa.field(name, pa.float64()) for name in scores),
    ]
