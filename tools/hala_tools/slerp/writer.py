"""Writing safetensors files whose tensors are never all in memory.

A file is eight bytes of header length, the header (JSON: name, dtype, shape, place), and the
tensors' bytes without gaps. Names, dtypes and shapes are known first, so the header is written
first, and the bytes come in any order, from several processes. Source: the safetensors format
description.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from hala_tools.slerp.checkpoint import DTYPES, INDEX, WEIGHTS, Spec

_ALIGNMENT = 8
_BEGIN_BYTES = 64 << 20
"""Written bytes between two requests to begin to put them on the disk."""

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h


def split(specs: Iterable[Spec], shard_bytes: int) -> dict[str, list[Spec]]:
    """File name -> the tensors of that file, in order, each file of `shard_bytes` at most unless
    one tensor alone is larger."""
    shards: list[list[Spec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.bytes
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    count = len(shards)
    return {f"model-{i:05d}-of-{count:05d}.safetensors": s for i, s in enumerate(shards, 1)}


def index_of(shards: Mapping[str, list[Spec]]) -> dict[str, object]:
    """What INDEX holds for these files."""
    places = {spec.name: file for file, specs in shards.items() for spec in specs}
    total = sum(spec.bytes for specs in shards.values() for spec in specs)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


class Writer:
    """The files of a checkpoint in `directory`, which is there and empty. Processes that are forked
    inside the block may write as well.

    Leaving the block puts all of it on the disk; after an error the files stay as they are, for the
    caller to remove. Raises OSError when the disk is full.
    """

    def __init__(self, directory: Path, shards: Mapping[str, list[Spec]]) -> None:
        self._directory = directory
        self._shards = shards
        self._files: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._waiting = 0

    def __enter__(self) -> Writer:
        try:
            for name, specs in self._shards.items():
                header, starts = _header(specs)
                file = self._create(name, header)
                self._places |= {name: (file, start) for name, start in starts.items()}
            if len(self._shards) > 1:
                text = json.dumps(index_of(self._shards), indent=2) + "\n"
                self._create(INDEX, text.encode())
        except BaseException:
            self._close()
            raise
        return self

    def _create(self, name: str, data: bytes) -> int:
        file = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._files.append(file)
        _write_all(file, memoryview(data), 0)
        return file

    def write(self, name: str, data: memoryview, offset: int) -> None:
        """Bytes of tensor `name`, from its byte `offset` on."""
        file, start = self._places[name]
        _write_all(file, data, start + offset)

    def begin_to_sync(self, written: int) -> None:
        """Now and then, have the system begin to put on the disk what was written, so that the end
        need not wait for all of it. `written`: bytes since the last call."""
        self._waiting += written
        if self._waiting > _BEGIN_BYTES and sys.platform == "linux":
            self._waiting = 0
            for file in self._files:
                # Unlike fsync it takes no lock that a write would wait for.
                _sync_file_range(file, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for file in self._files:
                    os.fsync(file)
        finally:
            self._close()

    def _close(self) -> None:
        for file in self._files:
            os.close(file)


def _sync_file_range(file: int, offset: int, size: int, flags: int) -> None:
    """sync_file_range(2), which Python's os lacks. Size 0: to the end. It may fail: fsync tells."""
    call = ctypes.CDLL(None).sync_file_range
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call(file, offset, size, flags)


def _write_all(file: int, data: memoryview, position: int) -> None:
    data = data.cast("B")
    while data:
        count = os.pwrite(file, data, position)
        data, position = data[count:], position + count


def _header(specs: list[Spec]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where each tensor starts in the file.

    Wide dtypes come first, so that each tensor lies aligned to its own.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for spec in sorted(specs, key=lambda spec: -DTYPES[spec.dtype].itemsize):
        starts[spec.name], end = end, end + spec.bytes
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [starts[spec.name], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    data_start = 8 + len(text)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: data_start + start for name, start in starts.items()}
