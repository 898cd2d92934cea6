"""Opening an input file and taking its lines, with the offset at which reading can begin again."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hala_engine.errors import InputError

BOM = "\ufeff"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_at(path: Path, start: int) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed, from offset `start` on."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            file.seek(start)
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); copy it again") from None


def read_lines(path: Path, start: int) -> Iterator[tuple[int, str, int]]:
    """(line number counted from `start`, the line with its end, the offset after it)."""
    end = start
    with open_at(path, start) as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                utf16 = end == 0 and raw.startswith(_UTF16_MARKS)
                raise not_utf8(f"{path}:{number}", end + error.start, utf16) from None
            end += len(raw)
            yield number, text.removeprefix(BOM) if end == len(raw) else text, end


def not_utf8(where: str, offset: int, utf16: bool = False) -> InputError:
    """The error for text in another encoding."""
    hint = "convert it with iconv -t UTF-8"
    if utf16:
        hint = "it looks like UTF-16; convert it with iconv -f UTF-16 -t UTF-8"
    return InputError(f"{where}: not UTF-8 at byte {offset}; {hint}")
