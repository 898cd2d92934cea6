"""Which files a job reads, and reading a run of their rows from a place found in the first scan."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hala_engine.errors import InputError, JobError
from hala_engine.translate.records import DictRecords, Records, TableRecords
from hala_engine.translate.text_files import READERS

_PARQUET = ".parquet"
_BATCH_ROWS = 1024
_KINDS = f"{', '.join(READERS)} (also .gz) or {_PARQUET}"


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
        return _kind(Path(self.path))

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
    """Where a row begins: which file, and the byte (text) or row (parquet) in it."""

    file: int
    offset: int


def _kind(path: Path) -> str:
    """The ending that says how to read the file, "" when nothing here can."""
    if path.suffix == ".gz":
        ending = Path(path.stem).suffix
        return ending if ending in READERS else ""
    return path.suffix if path.suffix in READERS or path.suffix == _PARQUET else ""


def find_files(inputs: tuple[str, ...]) -> list[InputFile]:
    """The files that INPUT... names, in order; a directory stands for its files, sorted."""
    paths: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and _kind(p))
            if not found:
                raise InputError(f"{path}: no input files in this directory; want {_KINDS}")
            paths += found
        elif not path.exists():
            raise InputError(f"{name}: no such file or directory")
        elif not _kind(path):
            raise InputError(f"{name}: unknown kind of file; want {_KINDS}")
        else:
            paths.append(path)
    files = []
    for path in paths:
        try:
            with path.open("rb"):
                stat = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        files.append(InputFile(str(path.resolve()), stat.st_size, stat.st_mtime_ns))
    parquet = [file.kind == _PARQUET for file in files]
    if any(parquet) and not all(parquet):
        raise InputError("parquet and text files cannot be mixed in one job; run one job for each")
    return files


def is_parquet(files: list[InputFile]) -> bool:
    return files[0].kind == _PARQUET


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet file ({reason})") from None


def read_rows(files: list[InputFile], start: Position, count: int) -> Records:
    """`count` rows from `start` on, over the borders of files."""
    if is_parquet(files):
        return TableRecords(_read_tables(files, start, count))
    return DictRecords(list(islice(_read_dicts(files, start), count)))


def _read_dicts(files: list[InputFile], start: Position) -> Iterator[dict]:
    offset = start.offset
    for file in files[start.file :]:
        _refuse_changed(file)
        for row in READERS[file.kind](Path(file.path), offset):
            yield row.values
        offset = 0


def _read_tables(files: list[InputFile], start: Position, count: int) -> pa.Table:
    tables: list[pa.Table] = []
    offset = start.offset
    for file in files[start.file :]:
        if not count:
            break
        _refuse_changed(file)
        with open_parquet(file.path) as parquet:
            table = _read_parquet(parquet, offset, count)
        tables.append(table)
        count -= table.num_rows
        offset = 0
    return pa.concat_tables(tables, promote_options="permissive")


def _read_parquet(parquet: pq.ParquetFile, offset: int, count: int) -> pa.Table:
    """Rows `offset` to `offset + count`, without opening the row groups before and after."""
    groups, skip, first = [], 0, 0
    for group in range(parquet.num_row_groups):
        after = first + parquet.metadata.row_group(group).num_rows
        if first < offset + count and after > offset:
            groups.append(group)
        elif after <= offset:
            skip = after
        first = after
    skip, parts = offset - skip, []
    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups):
        part = batch.slice(skip, count)
        parts.append(part)
        skip = max(0, skip - batch.num_rows)
        count -= part.num_rows
        if not count:
            break
    return pa.Table.from_batches(parts, schema=parquet.schema_arrow)


def _refuse_changed(file: InputFile) -> None:
    try:
        stat = Path(file.path).stat()
    except OSError as error:
        raise JobError(f"{file.path}: cannot be read any more ({error.strerror})") from None
    if (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise JobError(f"{file.path} was changed during the job; begin anew with --overwrite")
