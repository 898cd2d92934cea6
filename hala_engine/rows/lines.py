"""Opening a text file and taking its lines, with the offset at which reading can begin again."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from hala_engine.errors import InputError

BOM = "\ufeff"
# Further endings of names, and the codec that reads such files. Files may be joined ones.
CODECS = {".gz": "gzip", ".zst": "zstd"}

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CHUNK = 1 << 20


@contextmanager
def open_at(path: Path, start: int) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed, from offset `start` of those on."""
    with path.open("rb") as raw:
        codec = CODECS.get(path.suffix)
        if codec is None:
            raw.seek(start)
            yield raw
            return
        try:
            with io.BufferedReader(pa.CompressedInputStream(raw, codec), _CHUNK) as file:
                _pass_over(file, start)
                yield file
        except OSError as error:
            if error.errno is not None:  # the disk's fault, not the content's
                raise
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: damaged {codec} file ({reason}); copy it again") from None


def _pass_over(file: BinaryIO, count: int) -> None:
    while count > 0 and (part := file.read(min(count, _CHUNK))):
        count -= len(part)


def read_lines(path: Path, start: int) -> Iterator[tuple[int, str, int]]:
    """(line number counted from `start`, the line with its end, the offset after it)."""
    end = start
    with open_at(path, start) as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                utf16 = end == 0 and raw.startswith(UTF16_MARKS)
                raise not_utf8(f"{path}:{number}", end + error.start, utf16) from None
            end += len(raw)
            yield number, text.removeprefix(BOM) if end == len(raw) else text, end


def not_utf8(where: str, offset: int, utf16: bool = False) -> InputError:
    """The error for text in another encoding."""
    hint = "convert it with iconv -t UTF-8"
    if utf16:
        hint = "it looks like UTF-16; convert it with iconv -f UTF-16 -t UTF-8"
    return InputError(f"{where}: not UTF-8 at byte {offset}; {hint}")
