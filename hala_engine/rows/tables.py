"""Rows of Arrow tables in files: parquet, and Arrow's own two forms (`datasets` stores streams).

Arrow files are mapped into memory, so that what is read of them is never copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hala_engine.errors import InputError

PARQUET, ARROW = ".parquet", ".arrow"

_BATCH_ROWS = 1024
_FILE_FORM = b"ARROW1"  # how Arrow's form with a footer begins; a stream has no such mark


class TableFile(Protocol):
    """An open file."""

    schema: pa.Schema

    def count(self) -> int:
        """All its rows."""
        ...

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """The rows from number `start` on."""
        ...


@contextmanager
def open_table(path: Path) -> Iterator[TableFile]:
    """Raises InputError, here or on reading, for what is damaged."""
    try:
        if path.suffix == PARQUET:
            with pq.ParquetFile(path) as file:
                yield _Parquet(file)
        else:
            with path.open("rb") as raw:
                has_footer = raw.read(len(_FILE_FORM)) == _FILE_FORM
            with pa.memory_map(str(path)) as mapped:
                yield _ArrowFile(mapped) if has_footer else _ArrowStream(mapped)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the content's
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: not a readable {path.suffix[1:]} file ({reason}); copy it again"
        ) from None


class _Parquet:
    def __init__(self, file: pq.ParquetFile):
        self._file = file
        self.schema = file.schema_arrow

    def count(self) -> int:
        return self._file.metadata.num_rows

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Without opening the row groups before `start`."""
        first, groups = start, range(self._file.num_row_groups)
        for group in groups:
            rows = self._file.metadata.row_group(group).num_rows
            if first < rows:
                groups = groups[group:]
                break
            first -= rows
        else:
            return
        yield from _from(self._file.iter_batches(_BATCH_ROWS, row_groups=list(groups)), first)


class _ArrowFile:
    def __init__(self, mapped: pa.NativeFile):
        self._reader = pa.ipc.open_file(mapped)
        self.schema = self._reader.schema

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.batches(0))

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        yield from _from(map(self._reader.get_batch, range(self._reader.num_record_batches)), start)


class _ArrowStream:
    def __init__(self, mapped: pa.NativeFile):
        self._mapped = mapped
        self.schema = pa.ipc.open_stream(mapped).schema

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.batches(0))

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        self._mapped.seek(0)
        yield from _from(pa.ipc.open_stream(self._mapped), start)


def _from(batches: Iterator[pa.RecordBatch], start: int) -> Iterator[pa.RecordBatch]:
    """The batches' rows without the first `start`; no empty batch."""
    for batch in batches:
        if batch.num_rows > start:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)
