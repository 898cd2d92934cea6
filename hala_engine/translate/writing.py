"""The output rows of one shard, as JSON lines or parquet."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hala_engine.translate.records import Records, json_value
from hala_engine.translate.shard import RowResult
from hala_engine.translate.storage import atomic_file

ROW_INFO = "_hala"

_INFO_TYPE = pa.struct(
    [
        ("id", pa.int64()),
        ("flags", pa.list_(pa.string())),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
    ]
)


def write_shard(
    path: Path,
    records: Records,
    results: Sequence[RowResult],
    first_id: int,
    keep: Sequence[int],
    schema: pa.Schema | None,
) -> str:
    """Write the rows at `keep` with what was added to them; returns the file's sha256.

    `schema` is that of the input's columns, for parquet only.
    """
    with atomic_file(path) as file:
        if path.suffix == ".parquet":
            table = _table(records, results, first_id, schema).take(pa.array(keep, pa.int64()))
            pq.write_table(table, file, compression="zstd")
        else:
            rows = records.dicts()
            for index in keep:
                result = results[index]
                info = _row_info(first_id + index, result)
                file.write(json_line(rows[index] | result.values | {ROW_INFO: info}))
        file.flush()
        with Path(file.name).open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def json_line(value: dict[str, Any]) -> bytes:
    """One line of JSON; as plain text unless it holds halves of surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False, default=json_value)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, default=json_value).encode() + b"\n"


def _row_info(row_id: int, result: RowResult) -> dict[str, Any]:
    return {
        "id": row_id,
        "flags": result.flags,
        "prompt_tokens": result.prompt_tokens,
        "output_tokens": result.output_tokens,
    }


def _table(
    records: Records, results: Sequence[RowResult], first_id: int, schema: pa.Schema
) -> pa.Table:
    table = records.table(schema)
    for name in results[0].values:
        values = [result.values[name] for result in results]
        table = table.append_column(name, pa.array(values, pa.string()))
    infos = [_row_info(first_id + index, result) for index, result in enumerate(results)]
    return table.append_column(ROW_INFO, pa.array(infos, _INFO_TYPE))
