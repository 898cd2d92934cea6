"""Writing a safetensors file whose tensors are never all in memory.

The file is eight bytes of header length, the header (JSON: name, dtype, shape, place), and the
tensors' bytes without gaps. Names, dtypes and shapes are known first, so the header is written
first and the bytes may come in any order. Source: the safetensors format description.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
"""safetensors' name of a dtype -> torch's."""

_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorSpec:
    """`dtype` is safetensors' name of it, a key of DTYPES."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize


class SafetensorsWriter:
    """A new file at `path`. `write` may be called from several threads.

    Leaving the block checks that every byte of every tensor was written, and puts the file on the
    disk; after an error the file stays as it is, for the caller to remove. Raises FileExistsError
    if `path` exists and OSError when the disk is full.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]
    ) -> None:
        self.path = path
        self._tensors = dict(tensors)
        header, self._starts, self._size = _header(tensors, metadata)
        self._written = dict.fromkeys(tensors, 0)
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._write_at(memoryview(header), 0)

    def write(self, name: str, data: bytes | memoryview, offset: int = 0) -> None:
        """Bytes of tensor `name`, from its byte `offset` on; little endian, row by row. No byte may
        be written twice. Raises ValueError for bytes beyond the tensor's end."""
        data = memoryview(data)
        if offset < 0 or offset + data.nbytes > self._tensors[name].bytes:
            raise ValueError(f"{self.path}: bytes beyond the end of {name}")
        # One at a time: the file system lets in no more, and would have the others spin.
        with self._lock:
            self._write_at(data, self._starts[name] + offset)
            self._written[name] += data.nbytes

    def sync(self) -> None:
        """Wait until what has been written is on the disk."""
        os.fsync(self._file)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._check_complete()
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def _check_complete(self) -> None:
        for name, spec in self._tensors.items():
            if self._written[name] != spec.bytes:
                raise ValueError(
                    f"{self.path}: {self._written[name]} of {spec.bytes} bytes of {name} written"
                )

    def _write_at(self, data: memoryview, position: int) -> None:
        data = data.cast("B")
        while data:
            count = os.pwrite(self._file, data, position)
            data, position = data[count:], position + count


def file_bytes(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> int:
    """The size of the file that SafetensorsWriter makes of these."""
    return _header(tensors, metadata)[2]


def _header(
    tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """The file's first bytes, where each tensor starts in the file, and the file's size.

    Wide dtypes come first, so that each tensor lies aligned to its own.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name, spec in sorted(tensors.items(), key=lambda t: (-t[1].itemsize, t[0])):
        starts[name], end = end, end + spec.bytes
        entries[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    data_start = 8 + len(text)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: data_start + start for name, start in starts.items()}, data_start + end
