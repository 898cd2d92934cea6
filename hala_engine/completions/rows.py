"""The rows of a job's input: counted and checked once, then read one by one."""

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import pyarrow as pa

from hala_engine.completions.config import CompletionsConfig
from hala_engine.errors import InputError
from hala_engine.translate.inputs import InputFile, is_parquet, open_parquet
from hala_engine.translate.records import TableRecords
from hala_engine.translate.text_files import READERS
from hala_engine.translate.writing import ROW_INFO

_BATCH_ROWS = 1024


def count_rows(config: CompletionsConfig, files: list[InputFile]) -> int:
    """Reads all of the input once: a broken line that came up after hours would cost them all.

    Raises InputError for it, and for a file without the column.
    """
    total = 0
    for file in files:
        left = None if config.limit is None else config.limit - total
        if left == 0:
            break
        count, columns = _survey(file, left)
        if count:
            _check_columns(config, file, columns)
        total += count
    if not total:
        names = ", ".join(Path(file.path).name for file in files[:3])
        raise InputError(f"{names}: no rows; give a file that is not empty")
    return total


def read_rows(files: list[InputFile]) -> Iterator[dict]:
    """Every row, in order, a few in memory at a time."""
    for file in files:
        if is_parquet([file]):
            yield from _read_parquet(file.path)
        else:
            for row in READERS[file.kind](Path(file.path), 0):
                yield row.values


def _read_parquet(path: str) -> Iterator[dict]:
    with open_parquet(path) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS):
            yield from TableRecords(pa.Table.from_batches([batch])).dicts()


def _survey(file: InputFile, limit: int | None) -> tuple[int, list[str]]:
    """How many rows the file has, up to the limit, and their columns."""
    if is_parquet([file]):
        with open_parquet(file.path) as parquet:
            rows = parquet.metadata.num_rows
            return rows if limit is None else min(rows, limit), parquet.schema_arrow.names
    columns: dict[str, None] = {}
    rows = 0
    for row in islice(read_rows([file]), limit):
        columns.update(dict.fromkeys(row))
        rows += 1
    return rows, list(columns)


def _check_columns(config: CompletionsConfig, file: InputFile, columns: list[str]) -> None:
    if config.column not in columns:
        near = get_close_matches(config.column, columns, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        flag = "--messages-column" if config.is_messages else "--prompt-column"
        raise InputError(
            f"{file.path}: no column {config.column!r} ({flag}); "
            f"it has {', '.join(map(repr, columns)) or 'none'}{hint}"
        )
    for name in (config.result_column, ROW_INFO):
        if name in columns:
            raise InputError(f"{file.path}: already has a column {name!r}; drop or rename it")
