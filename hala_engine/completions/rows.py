"""The rows of a job's input: counted and checked once, then read one by one."""

from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from hala_engine.completions.config import CompletionsConfig
from hala_engine.errors import InputError
from hala_engine.jobs.results import ROW_INFO
from hala_engine.rows.inputs import InputFile, are_tables, read_rows
from hala_engine.rows.tables import open_table


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


def _survey(file: InputFile, limit: int | None) -> tuple[int, list[str]]:
    """How many rows the file has, up to the limit, and their columns."""
    if are_tables([file]):
        with open_table(Path(file.path)) as table:
            rows = table.count()
            return rows if limit is None else min(rows, limit), table.schema.names
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
