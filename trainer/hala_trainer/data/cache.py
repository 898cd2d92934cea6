"""Tokenised files, kept on disk: written as a stream, read as memory maps.

    NAME-KEY/ids.bin         uint16 or uint32 [tokens]
    NAME-KEY/supervised.bin  bool [tokens]
    NAME-KEY/offsets.bin     int64 [documents + 1]
    NAME-KEY/meta.json       their sizes, and how many flagged rows were left out; written last
    .NAME-KEY.lock           held by the process that tokenises, while others wait for it

The key is made of everything that the tokens depend on, the file's content first, so what is kept
is never out of date. A folder takes its name when it is whole; one that is damaged is made again.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hala_trainer.config import SourceConfig
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.data.rows import FileRows
from hala_trainer.errors import InputError

FORMAT = 5  # raise when what is kept changes its meaning
CHUNK_ROWS = 2_000  # tokenised at a time: some hundred bytes a token while they are
TELL_ROWS = 100_000  # between two signs of life

Tell = Callable[[str], None]


class Arrays(NamedTuple):
    ids: np.ndarray  # uint16 or uint32 [tokens]
    supervised: np.ndarray  # bool [tokens]
    offsets: np.ndarray  # int64 [documents + 1]
    flagged: int  # rows left out


def tokenised(
    path: Path, renderer: ChatRenderer, source: SourceConfig, cache: Path, limit: int, tell: Tell
) -> Arrays:
    """The tokens of a file, of its first `limit` rows unless that is 0; made when not there yet.

    Safe when several processes ask for the same at once: one works, the others wait. `tell` hears
    how far the work has come. Raises InputError for bad rows and for a cache that cannot be used.
    """
    key = hashlib.sha256()
    try:
        with path.open("rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    key.update(renderer.fingerprint())
    columns = replace(source, path="", weight=1.0)
    key.update(f"{FORMAT} {limit} {columns} {path.suffix}".encode())
    kept = cache / f"{path.stem}-{key.hexdigest()[:16]}"
    if arrays := _open(kept):
        return arrays
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{kept.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _open(kept):
                new = cache / f".{kept.name}.new"
                for leftover in (new, kept):
                    shutil.rmtree(leftover, ignore_errors=True)
                _write(new, path, renderer, source, limit, tell)
                new.rename(kept)
    except OSError as error:
        raise InputError(
            f"{cache}: tokenised data cannot be kept there ({error.strerror}); "
            "name another place with data.cache"
        ) from None
    arrays = _open(kept)
    assert arrays, kept
    return arrays


def _open(kept: Path) -> Arrays | None:
    """What is in a folder, or None when it is not there whole."""
    try:
        meta = json.loads((kept / "meta.json").read_bytes())
        documents, tokens, dtype = meta["documents"], meta["tokens"], meta["dtype"]
        shapes = {
            "ids": (np.dtype(dtype), tokens),
            "supervised": (np.dtype(bool), tokens),
            "offsets": (np.dtype(np.int64), documents + 1),
        }
        for name, (dtype, size) in shapes.items():
            if (kept / f"{name}.bin").stat().st_size != dtype.itemsize * size:
                return None
        arrays = {name: _map(kept / f"{name}.bin", *shapes[name]) for name in shapes}
        return Arrays(**arrays, flagged=meta["flagged"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(file: Path, dtype: np.dtype, size: int) -> np.ndarray:
    """A file as an array. Not as np.memmap, whose every slice takes ten times as long."""
    return np.asarray(np.memmap(file, dtype, "r")) if size else np.empty(0, dtype)


def _write(
    new: Path, path: Path, renderer: ChatRenderer, source: SourceConfig, limit: int, tell: Tell
) -> None:
    new.mkdir()
    documents, tokens = 0, 0
    found = FileRows(path, source)
    rows = islice(found, limit or None)
    with (
        (new / "ids.bin").open("wb") as ids,
        (new / "supervised.bin").open("wb") as supervised,
        (new / "offsets.bin").open("wb") as offsets,
    ):
        offsets.write(np.zeros(1, np.int64).tobytes())
        while chunk := list(islice(rows, CHUNK_ROWS)):
            encoded = renderer.encode(chunk)
            ids.write(encoded.ids.tobytes())
            supervised.write(encoded.supervised.tobytes())
            offsets.write((tokens + np.cumsum(encoded.lengths)).tobytes())
            before, documents = documents, documents + len(chunk)
            tokens += len(encoded.ids)
            if documents // TELL_ROWS > before // TELL_ROWS:
                tell(f"{path}: {documents:,} rows, {tokens:,} tokens so far")
    meta = {"documents": documents, "tokens": tokens, "dtype": str(renderer.dtype)}
    meta["flagged"] = found.flagged
    (new / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
