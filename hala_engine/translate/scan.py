"""The one scan of the inputs before the model is loaded.

It finds every broken line before work begins, counts rows for the ETA, and notes where each
shard begins, so that a resumed job opens its input there.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.inputs import (
    InputFile,
    Position,
    is_parquet,
    open_parquet,
    sha256_of,
)
from hala_engine.translate.plan import Plan
from hala_engine.translate.schema import SchemaFinder
from hala_engine.translate.text_files import READERS
from hala_engine.translate.writing import ROW_INFO


def make_plan(config: TranslateConfig, files: list[InputFile]) -> Plan:
    """Read the inputs once, whole, and check them. Raises InputError for the first fault."""
    out = config.format or ("parquet" if is_parquet(files) else "jsonl")
    scan = _ParquetScan(config) if is_parquet(files) else _TextScan(config, out == "parquet")
    scanned = []
    for index, file in enumerate(files):
        if config.limit is not None and scan.rows >= config.limit:
            scanned.append(file)
            continue
        before = scan.rows
        for _ in scan.read(index, file):
            scan.rows += 1
            if scan.rows == config.limit:
                break
        if scan.rows > before:
            _check_columns(config, file, scan.columns_of_file)
        scanned.append(replace(file, sha256=sha256_of(file.path), rows=scan.rows - before))
    if not scan.rows:
        names = ", ".join(Path(file.path).name for file in files[:3])
        raise InputError(f"{names}: no rows; give a file that is not empty")
    identity = json.loads(json.dumps(config.identity()))
    plan = Plan(identity, scanned, scan.rows, scan.starts, out, scan.schema())
    if not plan.own_shards():
        raise InputError(
            f"--shard {config.shard[0]}/{config.shard[1]}: the input makes only {len(scan.starts)} "
            "shards; lower --shard-rows or N"
        )
    return plan


class _TextScan:
    """Goes over the rows of text files, noting shard starts, columns and, for parquet, types."""

    def __init__(self, config: TranslateConfig, find_schema: bool):
        self.rows = 0
        self.starts: list[Position] = []
        self.columns_of_file: dict[str, None] = {}
        self._shard_rows = config.shard_rows
        self._finder = SchemaFinder() if find_schema else None

    def read(self, index: int, file: InputFile) -> Iterator[None]:
        self.columns_of_file = {}
        offset = 0
        for row in READERS[file.kind](Path(file.path), 0):
            if self.rows % self._shard_rows == 0:
                self.starts.append(Position(index, offset))
            offset = row.end
            self.columns_of_file.update(dict.fromkeys(row.values))
            if self._finder:
                self._finder.add(row.values)
            yield

    def schema(self) -> pa.Schema | None:
        return self._finder and self._finder.schema()


class _ParquetScan:
    """Knows rows and columns from the files' footers."""

    def __init__(self, config: TranslateConfig):
        self.rows = 0
        self.starts: list[Position] = []
        self.columns_of_file: dict[str, None] = {}
        self._shard_rows = config.shard_rows
        self._schemas: list[tuple[str, pa.Schema]] = []

    def read(self, index: int, file: InputFile) -> Iterator[None]:
        with open_parquet(file.path) as parquet:
            self._schemas.append((file.path, parquet.schema_arrow.remove_metadata()))
            self.columns_of_file = dict.fromkeys(parquet.schema_arrow.names)
            rows = parquet.metadata.num_rows
        for row in range(rows):
            if self.rows % self._shard_rows == 0:
                self.starts.append(Position(index, row))
            yield

    def schema(self) -> pa.Schema:
        common = self._schemas[0][1]
        for path, schema in self._schemas[1:]:
            try:
                common = pa.unify_schemas([common, schema], promote_options="permissive")
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise InputError(
                    f"{path}: columns differ from the first file's ({reason})"
                ) from None
        return common


def _check_columns(config: TranslateConfig, file: InputFile, columns: dict[str, None]) -> None:
    for name in config.columns:
        if name not in columns:
            near = get_close_matches(name, columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"{file.path}: no column {name!r}; it has {', '.join(map(repr, columns))}{hint}"
            )
        if config.output_column(name) in columns:
            raise InputError(
                f"{file.path}: already has a column {config.output_column(name)!r}; rename it"
            )
    if ROW_INFO in columns:
        raise InputError(
            f"{file.path}: has a column {ROW_INFO!r}, so it is a translation; drop or rename it"
        )
