"""Files of rows -> conversations: lists of {role, content}, whatever the columns were called."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hala_trainer.config import SourceConfig
from hala_trainer.errors import InputError

KINDS = (".jsonl", ".parquet")
BATCH_ROWS = 2_000  # of a parquet file that are Python objects at once
# What a job of hala-engine leaves beside its rows: the second at once, the third at the end.
NO_ROWS, STARTED, FINISHED = "failures.jsonl", ".progress", "manifest.json"
FLAGS = "_hala.flags"  # the column in which it says what may be wrong with a row
# ShareGPT's names of the two who talk.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}

Message = dict[str, object]  # role and content are str; a template may read further keys
Row = tuple[str, list[Message]]  # where it was found (for errors), the conversation


def data_files(path: Path) -> list[Path]:
    """`path` itself, or the files of rows in a folder in the order of their names.

    A folder with a `data` folder in it, as `hala-engine translate` writes and the hub keeps, stands
    for that one. Raises InputError when there is no such file or nothing to read, and for the
    folder of a job that is still going on.
    """
    if path.is_dir():
        if (path / STARTED).is_dir() and not (path / FINISHED).is_file():
            raise InputError(f"{path}: its job is not finished; run its command again to the end")
        folder = path / "data" if (path / "data").is_dir() else path
        found = (p for p in folder.iterdir() if p.suffix in KINDS and p.is_file())
        files = sorted(p for p in found if not p.name.startswith(".") and p.name != NO_ROWS)
        if not files:
            inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
            hint = f"; give one of its folders: {', '.join(inside)}" if inside else ""
            raise InputError(f"{folder}: no .jsonl or .parquet file in it{hint}")
        return files
    if not path.is_file():
        raise InputError(f"{path}: no such data file or folder")
    if path.suffix not in KINDS:
        raise InputError(f"{path}: data must be .jsonl or .parquet, or a folder of such files")
    return [path]


class FileRows:
    """The rows of a .jsonl or .parquet file of a source; `flagged` counts those left out so far.

    Iterating raises InputError naming the file and the line.
    """

    def __init__(self, path: Path, source: SourceConfig):
        self.path, self.source = path, source
        self.flagged = 0

    def __iter__(self) -> Iterator[Row]:
        path, source = self.path, self.source
        self.flagged = 0
        try:
            found = _parquet_rows(path, source) if path.suffix == ".parquet" else _jsonl_rows(path)
            for place, row in found:
                if source.drop_flagged and _flagged(place, row, source):
                    self.flagged += 1
                else:
                    yield place, conversation(place, row, source)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror or _first_line(error)})"
            ) from None

    def place_of(self, index: int) -> str:
        """Where row `index` (from 0, of those not left out) is, for an error message."""
        return next(islice(self, index, None))[0]


def needed(source: SourceConfig) -> str:
    return f"`{source.messages_column}`, or `{source.prompt_column}` and `{source.response_column}`"


def all_flagged(source: SourceConfig, rows: int) -> str:
    """What is wrong with a source of which no row is left."""
    return (
        f"{source.path}: drop_flagged leaves none of {rows:,} rows: they are flagged, or lack "
        f"{needed(source)}"
    )


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict]]:
    name = f"{path} line "
    with path.open("rb") as lines:  # bytes: only a line feed ends a line
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{name}{n}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                raise InputError(f"{place}: not valid UTF-8") from None
            except json.JSONDecodeError as error:
                raise InputError(f"{place}: not valid JSON ({error.msg})") from None
            except (ValueError, RecursionError) as error:  # numbers or nesting beyond reason
                raise InputError(f"{place}: not readable as JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{place}: a row must be a JSON object")
            yield place, row


def _parquet_rows(path: Path, source: SourceConfig) -> Iterator[tuple[str, dict]]:
    import pyarrow
    import pyarrow.parquet as pq

    name, n = f"{path} row ", 0
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = {source.messages_column, source.prompt_column, source.response_column}
            wanted = {name for name in names if _has(schema, name)}
            if source.messages_column not in wanted and len(wanted) < 2:
                has = ", ".join(sorted(schema.names))
                raise InputError(f"{path}: needs {needed(source)}; has {has}")
            if source.drop_flagged:
                if not _has(schema, FLAGS):
                    raise InputError(f"{path}: has no `{FLAGS}`, which drop_flagged goes by")
                wanted.add(FLAGS)
            for batch in file.iter_batches(BATCH_ROWS, columns=sorted(wanted)):
                for row in batch.to_pylist():
                    n += 1
                    yield f"{name}{n}", row
    except (pyarrow.ArrowException, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({_first_line(error)})") from None


def _has(schema, name: str) -> bool:
    """Whether an arrow schema has a column, or a field of a column's structs."""
    import pyarrow

    if name in schema.names:
        return True
    kind = pyarrow.struct(list(schema))
    for part in name.split("."):
        place = kind.get_field_index(part) if pyarrow.types.is_struct(kind) else -1
        if place < 0:
            return False
        kind = kind.field(place).type
    return True


def _value(row: dict, name: str) -> object:
    """What a row has in a column, or in a field of a column's objects; None for nothing."""
    if name in row or "." not in name:
        return row.get(name)
    value: object = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _flagged(place: str, row: dict, source: SourceConfig) -> bool:
    """Whether hala-engine flagged a row, or left its text empty because it failed."""
    flags = _value(row, FLAGS)
    if not isinstance(flags, list):
        raise InputError(
            f"{place}: `{FLAGS}`, which drop_flagged goes by, must be a list, not {_kind(flags)}"
        )
    pair = (_value(row, source.prompt_column), _value(row, source.response_column))
    return bool(flags) or (_value(row, source.messages_column) is None and None in pair)


def conversation(place: str, row: dict, source: SourceConfig) -> list[Message]:
    """The messages of a row, checked: there is an answer to learn, and every content is text."""
    listed = _value(row, source.messages_column)
    if listed is None:
        names = (source.prompt_column, source.response_column)
        prompt, response = values = [_value(row, name) for name in names]
        if prompt is None and response is None:
            raise InputError(f"{place}: needs {needed(source)}")
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str):
                raise InputError(f"{place}: `{name}` must be text, not {_kind(value)}")
        return [
            {"role": "user", "content": source.prompt_template.replace("{prompt}", prompt)},
            {"role": "assistant", "content": response},
        ]
    if not isinstance(listed, list):
        raise InputError(
            f"{place}: `{source.messages_column}` must be a list of messages, not {_kind(listed)}"
        )
    messages = [_message(place, n, message) for n, message in enumerate(listed, 1)]
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(dict.fromkeys(str(m["role"]) for m in messages)) or "none"
        raise InputError(
            f"{place}: no assistant turn, so nothing to learn from it (its roles: {roles})"
        )
    return messages


def _message(place: str, number: int, message: object) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"{place}: message {number} must be an object, not {_kind(message)}")
    role, content = message.get("role"), message.get("content")
    if role is None and isinstance(message.get("from"), str):
        role, content = message["from"], message.get("value")
        role = SHAREGPT_ROLES.get(role, role)
    if not isinstance(role, str):
        raise InputError(f"{place}: message {number} needs a role that is text")
    if not isinstance(content, str):
        raise InputError(
            f"{place}: the content of message {number} must be text, not {_kind(content)}"
        )
    if len(message) == 2:
        return {"role": role, "content": content}
    # Parquet gives every message the keys of all the others, empty.
    more = {k: v for k, v in message.items() if v is not None and k not in ("from", "value")}
    return more | {"role": role, "content": content}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", type(None): "missing or null", str: "text"}
    names |= {int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), type(value).__name__)
