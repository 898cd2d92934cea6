"""Files of rows -> conversations: lists of {role, content}, whatever the columns were called."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hala_trainer.config import DataConfig
from hala_trainer.errors import InputError

KINDS = (".jsonl", ".parquet")
BATCH_ROWS = 2_000  # of a parquet file that are Python objects at once
# What a job of hala-engine leaves beside its rows: the second at once, the third at the end.
NO_ROWS, STARTED, FINISHED = "failures.jsonl", ".progress", "manifest.json"
# ShareGPT's names of the two who talk.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}

Message = dict[str, object]  # role and content are str; a template may read further keys
Row = tuple[str, list[Message]]  # where it was found (for errors), the conversation


@dataclass(frozen=True)
class Columns:
    """Where a row keeps its conversation: a list of messages, or else a prompt and its response."""

    messages: str = "messages"
    prompt: str = "prompt"
    response: str = "response"
    template: str = "{prompt}"  # the user's turn, from the prompt

    @staticmethod
    def of(data: DataConfig) -> "Columns":
        return Columns(
            data.messages_column, data.prompt_column, data.response_column, data.prompt_template
        )

    def missing(self) -> str:
        return f"needs `{self.messages}`, or `{self.prompt}` and `{self.response}`"


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


def read_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Every row of a .jsonl or .parquet file. Raises InputError naming the file and the line."""
    try:
        found = (_parquet_rows if path.suffix == ".parquet" else _jsonl_rows)(path, columns)
        for place, row in found:
            yield place, conversation(place, row, columns)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or _first_line(error)})"
        ) from None


def place_of(path: Path, index: int) -> str:
    """Where row `index` (from 0, blank lines not counted) of a file is, for an error message."""
    if path.suffix == ".parquet":
        return f"{path} row {index + 1}"
    with path.open("rb") as lines:
        numbers = (n for n, line in enumerate(lines, 1) if line.strip())
        return f"{path} line {next(n for i, n in enumerate(numbers) if i == index)}"


def _jsonl_rows(path: Path, columns: Columns) -> Iterator[tuple[str, dict]]:
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


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, dict]]:
    import pyarrow
    import pyarrow.parquet as pq

    name, n = f"{path} row ", 0
    try:
        with pq.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
            wanted = {columns.messages, columns.prompt, columns.response} & known
            if columns.messages not in wanted and len(wanted) < 2:
                raise InputError(f"{path}: {columns.missing()}; has {', '.join(sorted(known))}")
            for batch in file.iter_batches(BATCH_ROWS, columns=sorted(wanted)):
                for row in batch.to_pylist():
                    n += 1
                    yield f"{name}{n}", row
    except (pyarrow.ArrowException, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({_first_line(error)})") from None


def conversation(place: str, row: dict, columns: Columns) -> list[Message]:
    """The messages of a row, checked: there is an answer to learn, and every content is text."""
    listed = row.get(columns.messages)
    if listed is None:
        prompt, response = row.get(columns.prompt), row.get(columns.response)
        if prompt is None and response is None:
            raise InputError(f"{place}: {columns.missing()}")
        for name, value in ((columns.prompt, prompt), (columns.response, response)):
            if not isinstance(value, str):
                raise InputError(f"{place}: `{name}` must be text, not {_kind(value)}")
        return [
            {"role": "user", "content": columns.template.replace("{prompt}", prompt)},
            {"role": "assistant", "content": response},
        ]
    if not isinstance(listed, list):
        raise InputError(
            f"{place}: `{columns.messages}` must be a list of messages, not {_kind(listed)}"
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
