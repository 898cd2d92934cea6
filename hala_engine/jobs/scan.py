"""The one scan of the inputs before the model is loaded.

It finds every broken line before work begins, counts rows for the ETA, and notes where each
shard begins, so that a resumed job opens its input there.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.jobs.config import JobConfig
from hala_engine.jobs.plan import Plan
from hala_engine.jobs.results import ROW_INFO, output_schema
from hala_engine.rows.inputs import InputFile, Position, are_tables
from hala_engine.rows.records import JSON_TEXT
from hala_engine.rows.schema import SchemaFinder
from hala_engine.rows.tables import open_table
from hala_engine.rows.text_files import READERS


def default_format(files: list[InputFile]) -> str:
    """The output's format where none is given: the input's, jsonl for text."""
    return "parquet" if are_tables(files) else "jsonl"


def make_plan(config: JobConfig, files: list[InputFile]) -> Plan:
    """Read the inputs once, whole, and check them. Raises InputError for the first fault."""
    scan = _TableScan(config) if are_tables(files) else _TextScan(config)
    scanned = []
    for index, file in enumerate(files):
        left = None if config.limit is None else config.limit - scan.rows
        if left == 0:
            scanned.append(file)
            continue
        rows = scan.read(index, file, left)
        scanned.append(replace(file, sha256=_sha256_of(file.path), rows=rows))
    if not scan.rows:
        names = ", ".join(Path(file.path).name for file in files[:3])
        raise InputError(f"{names}: no rows; give a file that is not empty")
    identity = json.loads(json.dumps(config.identity()))
    schema = scan.schema()
    _check_types(config, files, schema)
    plan = Plan(identity, scanned, scan.rows, scan.starts, config.format, schema)
    if not plan.own_shards():
        raise InputError(
            f"--shard {config.shard[0]}/{config.shard[1]}: the input makes only {len(scan.starts)} "
            "shards; lower --shard-rows or N"
        )
    return plan


class _TextScan:
    """Goes over the rows of text files, noting shard starts, columns and their types."""

    def __init__(self, config: JobConfig):
        self.rows = 0
        self.starts: list[Position] = []
        self._config = config
        self._finder = SchemaFinder()

    def read(self, index: int, file: InputFile, limit: int | None) -> int:
        """How many rows the file has, up to the limit."""
        before, offset = self.rows, 0
        columns: dict[str, None] = {}
        shard_rows, finder = self._config.shard_rows, self._finder
        for values, end in islice(READERS[file.kind](Path(file.path), 0), limit):
            if self.rows % shard_rows == 0:
                self.starts.append(Position(index, offset))
            self.rows += 1
            offset = end
            if not values.keys() <= columns.keys():
                columns |= dict.fromkeys(values)
            finder.add(values)
        if self.rows > before:
            _check_columns(self._config, file, columns)
        return self.rows - before

    def schema(self) -> pa.Schema:
        return self._finder.schema()


class _TableScan:
    """Knows rows, columns and types without reading the values."""

    def __init__(self, config: JobConfig):
        self.rows = 0
        self.starts: list[Position] = []
        self._config = config
        self._schemas: list[tuple[str, pa.Schema]] = []

    def read(self, index: int, file: InputFile, limit: int | None) -> int:
        """How many rows the file has, up to the limit."""
        with open_table(Path(file.path)) as table:
            schema, rows = table.schema.remove_metadata(), table.count()
        rows = rows if limit is None else min(rows, limit)
        shard_rows = self._config.shard_rows
        self.starts += [
            Position(index, row) for row in range(-self.rows % shard_rows, rows, shard_rows)
        ]
        self.rows += rows
        if rows:
            _check_columns(self._config, file, schema.names)
        self._schemas.append((file.path, schema))
        return rows

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


def _check_columns(config: JobConfig, file: InputFile, columns: Iterable[str]) -> None:
    names = list(columns)
    for name in config.read_columns:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"{file.path}: no column {name!r}; it has {', '.join(map(repr, names))}{hint}"
            )
    for name in config.added_columns:
        if name in names:
            raise InputError(f"{file.path}: already has a column {name!r}; rename it")
    if ROW_INFO in names and not config.adds_to_info:
        raise InputError(
            f"{file.path}: has a column {ROW_INFO!r}, so it comes from such a job; "
            "drop or rename it"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file.path}: has two columns {twice!r}; rename one")


def _check_types(config: JobConfig, files: list[InputFile], schema: pa.Schema) -> None:
    """Rather than let each row fail. Of a column of mixed types some rows may be right."""
    for name in config.read_columns:
        field = schema.field(name)
        if field.metadata == JSON_TEXT:
            continue
        if fault := config.column_fault(name, field.type):
            raise InputError(f"{files[0].path}: column {name!r} {fault}")
    output_schema(schema, config.added_columns, config.scores)


def _sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
