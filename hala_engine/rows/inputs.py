"""Which files a job reads, and reading a run of their rows from a place found in the first scan."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from hala_engine.errors import InputError, JobError
from hala_engine.rows.folders import data_files
from hala_engine.rows.hub import HUB, hub_files
from hala_engine.rows.kinds import KINDS, TABLES, kind_of
from hala_engine.rows.records import DictRecords, Records, TableRecords
from hala_engine.rows.tables import open_table
from hala_engine.rows.text_files import READERS


@dataclass(frozen=True)
class InputFile:
    """A file as it is on disk; `sha256` and `rows` once it has been scanned."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str | None = None
    rows: int = 0

    @property
    def kind(self) -> str:
        return kind_of(Path(self.path))

    @property
    def same_on_disk(self) -> tuple[str, int, int]:
        """Equal for two looks at a file that nobody has written to in between."""
        return self.path, self.bytes, self.mtime_ns

    @property
    def content(self) -> tuple[str, str | None, int]:
        """Equal for the same data under the same name, wherever it lies."""
        return Path(self.path).name, self.sha256, self.rows

    def describe(self) -> str:
        digest = f"sha256 {self.sha256[:12]}, " if self.sha256 else ""
        return f"{Path(self.path).name} ({digest}{self.rows} rows)"


@dataclass(frozen=True)
class Position:
    """Where a row begins: which file, and the byte (text) or row (tables) in it."""

    file: int
    offset: int


def find_files(inputs: tuple[str, ...]) -> list[InputFile]:
    """The files that INPUT... names, in order; a directory stands for those in it, sorted."""
    files = [_look_at(path) for name in inputs for path in _paths(name)]
    tables = [file.kind in TABLES for file in files]
    if any(tables) and not all(tables):
        raise InputError(
            f"{' and '.join(TABLES)} files cannot be mixed with text files in one job; "
            "run one job for each"
        )
    return files


def _paths(name: str) -> list[Path]:
    if name.startswith(HUB):
        return hub_files(name)
    path = Path(name)
    if path.is_dir():
        try:
            found = data_files(path)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
        if not found:
            raise InputError(f"{path}: no input files in this directory; want {KINDS}")
        return found
    if not path.exists():
        raise InputError(f"{name}: no such file or directory")
    if not kind_of(path):
        raise InputError(f"{name}: unknown kind of file; want {KINDS}")
    return [path]


def _look_at(path: Path) -> InputFile:
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise InputError(f"{path}: not a plain file; it is read more than once, so store it first")
    try:
        with path.open("rb"):
            stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    # The name stays even if it is a link's: the hub's cache links to files without an ending.
    absolute = path.parent.resolve() / path.name
    return InputFile(str(absolute), stat.st_size, stat.st_mtime_ns)


def are_tables(files: list[InputFile]) -> bool:
    """Whether the files hold Arrow tables; else all are text."""
    return files[0].kind in TABLES


class RowReader:
    """Reads a job's rows, a shard at a time. Files stay open between shards that follow each other,
    since a compressed one can be read from its start only.
    """

    def __init__(self, files: list[InputFile]):
        self._files = files
        self._rows: _TextRows | _TableRows | None = None

    def read(self, start: Position, count: int) -> Records:
        """`count` rows from `start` on, over the borders of files. Raises JobError."""
        try:
            if self._rows is None or self._rows.position() != start:
                self.close()
                kind = _TableRows if are_tables(self._files) else _TextRows
                self._rows = kind(self._files, start)
            _refuse_changed(self._files[start.file])
            return self._rows.take(count)
        except InputError as error:  # the scan does not read the values of tables
            raise JobError(str(error)) from None

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None


def read_rows(files: list[InputFile]) -> Iterator[dict]:
    """Every row as plain values, in order, a few in memory at a time."""
    start = Position(0, 0)
    if are_tables(files):
        for _, _, batch in _batches(files, start):
            yield from TableRecords(pa.Table.from_batches([batch])).dicts()
    else:
        for _, _, values in _values(files, start):
            yield values


class _TextRows:
    """An open run of rows of text files."""

    def __init__(self, files: list[InputFile], start: Position):
        self._rows = _values(files, start)
        self._next: tuple[int, int, dict] | None = None

    def position(self) -> Position | None:
        """Of the next row; None after the last."""
        if self._next is None:
            self._next = next(self._rows, None)
        return self._next and Position(*self._next[:2])

    def take(self, count: int) -> DictRecords:
        first = [] if self._next is None else [self._next[2]]
        self._next = None
        rest = islice(self._rows, count - len(first))
        return DictRecords(first + [values for _, _, values in rest])

    def close(self) -> None:
        self._rows.close()


class _TableRows:
    """An open run of rows of Arrow tables."""

    def __init__(self, files: list[InputFile], start: Position):
        self._batches = _batches(files, start)
        self._next: tuple[int, int, pa.RecordBatch] | None = None

    def position(self) -> Position | None:
        """Of the next row; None after the last."""
        if self._next is None:
            self._next = next(self._batches, None)
        return self._next and Position(*self._next[:2])

    def take(self, count: int) -> TableRecords:
        parts = []
        while count and self.position():
            file, offset, batch = self._next
            part, rest = batch.slice(0, count), batch.slice(count)
            self._next = (file, offset + count, rest) if rest.num_rows else None
            parts.append(pa.Table.from_batches([part]))
            count -= part.num_rows
        return TableRecords(pa.concat_tables(parts, promote_options="permissive"))

    def close(self) -> None:
        self._batches.close()


def _values(files: list[InputFile], start: Position) -> Iterator[tuple[int, int, dict]]:
    """(file, offset, the row that begins there)."""
    offset = start.offset
    for index in range(start.file, len(files)):
        _refuse_changed(files[index])
        for values, end in READERS[files[index].kind](Path(files[index].path), offset):
            yield index, offset, values
            offset = end
        offset = 0


def _batches(files: list[InputFile], start: Position) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(file, the number of the first row in it, some rows)."""
    row = start.offset
    for index in range(start.file, len(files)):
        _refuse_changed(files[index])
        with open_table(Path(files[index].path)) as table:
            for batch in table.batches(row):
                yield index, row, batch
                row += batch.num_rows
        row = 0


def _refuse_changed(file: InputFile) -> None:
    try:
        stat = Path(file.path).stat()
    except OSError as error:
        raise JobError(f"{file.path}: cannot be read any more ({error.strerror})") from None
    if (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise JobError(f"{file.path} was changed during the job; begin anew with --overwrite")
