"""The output rows of one shard, as JSON lines or parquet."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hala_engine.jobs.config import JobConfig
from hala_engine.jobs.plan import Plan
from hala_engine.jobs.results import ROW_INFO, RowResult, output_schema
from hala_engine.jobs.storage import atomic_file
from hala_engine.rows.characters import whole_characters
from hala_engine.rows.records import Records, json_value, to_column

_ENCODER = json.JSONEncoder(ensure_ascii=False, default=json_value)


class ShardWriter:
    """Writes the files of one shard: the rows with what was added to them, one file a folder."""

    def __init__(
        self,
        config: JobConfig,
        plan: Plan,
        records: Records,
        results: Sequence[RowResult],
        first_id: int,
    ):
        self._added = config.added_columns
        self._schema = plan.schema
        self._output_schema = output_schema(plan.schema, self._added, config.scores)
        self._records, self._results, self._first_id = records, results, first_id
        has_info = ROW_INFO in plan.schema.names
        self._earlier_info = records.column(ROW_INFO) if has_info else None

    def rows_of(self, folder: str) -> list[int]:
        """Which of the shard's rows go there."""
        return [i for i, result in enumerate(self._results) if result.folder == folder]

    def write(self, path: Path, rows: Sequence[int]) -> str:
        """The file of these rows, complete or not at all; returns its sha256."""
        with atomic_file(path) as file:
            if path.suffix == ".parquet":
                table = self._table().take(pa.array(rows, pa.int64()))
                pq.write_table(table, file, compression="zstd")
            else:
                records = self._records.dicts()
                for index in rows:
                    added = self._results[index].values | {ROW_INFO: self._info(index)}
                    file.write(json_line(records[index] | added))
            file.flush()
            with Path(file.name).open("rb") as written:
                return hashlib.file_digest(written, "sha256").hexdigest()

    def _info(self, index: int) -> dict[str, Any]:
        result, row_id = self._results[index], self._first_id + index
        earlier = self._earlier_info[index] if self._earlier_info else None
        return result.added_to(earlier, row_id) if earlier else result.info(row_id)

    def _table(self) -> pa.Table:
        read = self._records.table(self._schema)
        columns = []
        for field in self._output_schema:
            if field.name == ROW_INFO:
                infos = [self._info(index) for index in range(len(self._results))]
                columns.append(pa.array(infos, field.type))
            elif field.name in self._added:
                values = [result.values.get(field.name) for result in self._results]
                columns.append(to_column(values, field))
            else:
                columns.append(read.column(field.name))
        return pa.table(columns, schema=self._output_schema)


def json_line(value: dict[str, Any]) -> bytes:
    """One line of JSON. Halves of surrogate pairs become U+FFFD: `datasets` cannot read them."""
    text = _ENCODER.encode(value)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return whole_characters(text).encode() + b"\n"
