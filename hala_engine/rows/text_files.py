"""Rows of text files: JSON lines, a JSON array, CSV and TSV, plain lines; any of them compressed.

Each reader is a generator of `Row`: the row, and the byte offset at which the next one starts,
so that reading can begin again there. Files are never held in memory as a whole. What is broken
is an `InputError` with the file, the line and how to mend it.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hala_engine.errors import InputError
from hala_engine.rows.json_array import read_array
from hala_engine.rows.lines import BOM, UTF16_MARKS, not_utf8, open_at, read_lines

# Fields have no length limit: a document may be a cell. (The limit is global to the process.)
csv.field_size_limit(sys.maxsize)

_DECODER = json.JSONDecoder()
_LINE_ENDS = ("\n", "\r\n", "")


class Row(NamedTuple):
    values: dict
    end: int


Reader = Callable[[Path, int], Iterator[Row]]


def read_jsonl(path: Path, start: int = 0) -> Iterator[Row]:
    """One object a line; blank lines are passed over."""
    for number, text, end in read_lines(path, start):
        if text.isspace():
            continue
        try:
            value = _json_value(text)
        except (ValueError, RecursionError) as error:
            hint = "mend or delete that line"
            if number == 1 and text.lstrip().startswith("["):
                hint = "a JSON array needs a name that ends in .json"
            elif number == 1 and text.strip() == "{":
                hint = "an object must be on one line, or in an array [ ] under the name .json"
            raise InputError(f"{path}:{number}: broken JSON ({_reason(error)}); {hint}") from None
        if not isinstance(value, dict):
            raise _no_object(value, f"{path}:{number}")
        yield Row(value, end)


def _json_value(line: str) -> object:
    """`json.loads(line)`, faster for a line that holds nothing else."""
    try:
        value, end = _DECODER.raw_decode(line)
    except json.JSONDecodeError:
        return json.loads(line)
    return value if line[end:] in _LINE_ENDS else json.loads(line)


def read_json(path: Path, start: int = 0) -> Iterator[Row]:
    """An array of objects, decoded one by one; or JSON lines under the name .json."""
    with open_at(path, 0) as file:
        raw = file.read(4096)
    if raw.startswith(UTF16_MARKS):
        raise not_utf8(str(path), 0, utf16=True)
    head = raw.decode("utf-8", "replace").lstrip(BOM).lstrip()
    if head.startswith("{"):
        yield from read_jsonl(path, start)
    elif head.startswith("["):
        for number, value, end in read_array(path, start):
            if not isinstance(value, dict):
                raise _no_object(value, f"{path}: element {number}")
            yield Row(value, end)
    elif head:
        raise InputError(f"{path}: holds no JSON array of objects, nor JSON lines")


def read_txt(path: Path, start: int = 0) -> Iterator[Row]:
    """Each line is a row with the one column `text`."""
    for _, text, end in read_lines(path, start):
        yield Row({"text": text.rstrip("\r\n")}, end)


def read_csv(path: Path, start: int = 0) -> Iterator[Row]:
    return _separated(path, start, ",")


def read_tsv(path: Path, start: int = 0) -> Iterator[Row]:
    return _separated(path, start, "\t")


def _separated(path: Path, start: int, delimiter: str) -> Iterator[Row]:
    """Records under a header; quoted fields may hold line breaks."""
    records = _records(path, 0, delimiter)
    _, header, _ = next(records, (0, [], 0))
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: the header names column {twice!r} twice; rename one")
    if start:
        records = _records(path, start, delimiter)
    for line, fields, end in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path}:{line}: {len(fields)} fields under a header of {len(header)}; "
                f"quote fields that hold {delimiter!r} or a line break"
            )
        yield Row(dict(zip(header, fields, strict=True)), end)


def _records(path: Path, start: int, delimiter: str) -> Iterator[tuple[int, list[str], int]]:
    """(line on which the record begins, its fields, the offset after it); no empty lines."""
    end = start

    def texts() -> Iterator[str]:
        nonlocal end
        for _, text, line_end in read_lines(path, start):
            end = line_end
            yield text

    # The reader takes no line before it needs one, so `end` is where its last record ended.
    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields, end
            line = reader.line_num + 1
    except csv.Error as error:
        if "new-line character" in str(error):
            raise InputError(
                f"{path}:{line}: a carriage return outside quotes; turn the line ends of old Macs "
                "into \\n, and quote fields that hold line breaks"
            ) from None
        raise InputError(
            f"{path}:{line}: broken quotes ({error}); double every quote inside a quoted field"
        ) from None


def _no_object(value: object, where: str) -> InputError:
    return InputError(f"{where}: a row must be a JSON object, not {_kind(value)}")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        # Some of json's messages end in "at" already.
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


# File name endings (before that of a compression) and what reads them.
READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".txt": read_txt,
}
