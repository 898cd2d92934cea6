"""The tensors of a model directory: what the files' headers say of them, and the tensors
themselves, memory-mapped, one at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from hala_engine.errors import InputError
from hala_engine.weights import writer
from hala_engine.weights.directory import read_json

INDEX = "model.safetensors.index.json"

DTYPES = {
    "weight": ("F32", "F16", "BF16"),
    "fp8": ("F8_E4M3",),
    "scale": ("F32", "F16", "BF16", "F8_E8M0"),
}
"""Kind of a tensor -> safetensors' names of the dtypes that it may have."""


TORCH_DTYPES = {**writer.DTYPES, "F8_E8M0": torch.float8_e8m0fnu}


@dataclass(frozen=True)
class Entry:
    """What a file's header says of a tensor: `dtype` is safetensors' name of it, `start` the place
    of its first byte in the file."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int


@dataclass(frozen=True)
class Expected:
    """What a tensor must be: of one of `shapes` (any, if none are given) and of a `kind` of
    `DTYPES`. `optional`: it may be absent."""

    shapes: tuple[tuple[int, ...], ...] = ()
    kind: str = "weight"
    optional: bool = False


class Checkpoint:
    """The tensors of `directory`, sharded or in one file; only headers are read here.

    Raises InputError, naming the file, when there are no weights, a file is not whole, or the index
    names one that is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        placed = self._index()
        files = sorted(set(placed.values())) if placed else _weight_files(directory)
        self.entries: dict[str, Entry] = {}
        for file in files:
            self._read_header(file, placed)
        for name, file in (placed or {}).items():
            if name not in self.entries:
                raise InputError(f"{directory / INDEX} places {name} in {file}, which lacks it")

    def read(self, name: str, *, dim: int = 0, part: slice | None = None) -> torch.Tensor:
        """The tensor, or its `part` along `dim`, on the CPU: a view of the file, of which no more
        is mapped than this tensor, for as long as the view lives."""
        entry = self.entries[name]
        dtype = TORCH_DTYPES[entry.dtype]
        size = math.prod(entry.shape) * dtype.itemsize
        if not size:
            return torch.empty(entry.shape, dtype=dtype)
        path = self.directory / entry.file
        # Copy on write, which torch wants and nobody makes use of.
        data = np.memmap(path, np.uint8, "c", offset=entry.start, shape=(size,))
        if entry.start % dtype.itemsize:
            data = data.copy()
        tensor = torch.from_numpy(data).view(dtype).view(entry.shape)
        return tensor if part is None else tensor.narrow(dim, part.start, part.stop - part.start)

    def where(self, name: str) -> str:
        """The file that holds the tensor, for messages."""
        return str(self.directory / self.entries[name].file)

    def check(
        self, expected: Mapping[str, Expected], ignored: frozenset[str] = frozenset()
    ) -> None:
        """Raises InputError, naming tensor and file, unless the checkpoint holds exactly what is
        `expected`, save what is `ignored`."""
        for name in self.entries:
            if name not in expected and name not in ignored:
                raise InputError(
                    f"{self.where(name)}: tensor {name} does not belong to this architecture; "
                    "check model_type, the layer counts and quantization_config in config.json"
                )
        missing = [n for n, e in expected.items() if n not in self.entries and not e.optional]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(f"{self.directory} lacks the tensor {missing[0]}{more}")
        found = {name: e for name, e in expected.items() if name in self.entries}
        for name, wanted in found.items():
            self._check_tensor(name, wanted)
        self._check_one_dtype([name for name, wanted in found.items() if wanted.kind == "weight"])

    def _check_tensor(self, name: str, wanted: Expected) -> None:
        entry = self.entries[name]
        if wanted.shapes and entry.shape not in wanted.shapes:
            raise InputError(
                f"{self.where(name)}: tensor {name} has shape {list(entry.shape)}, "
                f"config.json asks for {list(wanted.shapes[0])}"
            )
        if entry.dtype not in DTYPES[wanted.kind]:
            raise InputError(
                f"{self.where(name)}: tensor {name} has dtype {entry.dtype}, "
                f"config.json asks for {' or '.join(DTYPES[wanted.kind])}"
            )

    def _check_one_dtype(self, names: list[str]) -> None:
        """Matrices share one dtype, vectors (norms, biases) have that one or float32: anything else
        is a checkpoint put together from two."""
        matrices = Counter(self.entries[n].dtype for n in names if len(self.entries[n].shape) > 1)
        if not matrices:
            return
        common = matrices.most_common(1)[0][0]
        for name in names:
            entry = self.entries[name]
            is_vector = len(entry.shape) < 2
            if entry.dtype != common and not (is_vector and entry.dtype == "F32"):
                raise InputError(
                    f"{self.where(name)}: tensor {name} has dtype {entry.dtype} where the "
                    f"checkpoint's other weights have {common}; convert it to one dtype"
                )

    def _index(self) -> dict[str, str] | None:
        path = self.directory / INDEX
        if not path.exists():
            return None
        placed = read_json(path).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise InputError(f"{path} has no weight_map")
        for name, file in placed.items():
            if not (self.directory / str(file)).exists():
                raise InputError(f"{path} places {name} in {file}, which is not there")
        return placed

    def _read_header(self, file: str, placed: dict[str, str] | None) -> None:
        for name, entry in _header(self.directory, file).items():
            if name in self.entries or (placed and placed.get(name, file) != file):
                other = placed[name] if placed else self.entries[name].file
                raise InputError(f"{self.directory / file}: tensor {name} is in {other} as well")
            self.entries[name] = entry


def _header(directory: Path, file: str) -> dict[str, Entry]:
    """The tensors of a safetensors file, once the library has found the file whole."""
    path = directory / file
    try:
        with safe_open(path, framework="numpy"):
            length, tensors = _raw_header(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({_cut_off(path) or error}); "
            "copy or download it again"
        ) from None
    return {
        name: Entry(file, tuple(t["shape"]), t["dtype"], 8 + length + t["data_offsets"][0])
        for name, t in tensors.items()
    }


def _raw_header(path: Path) -> tuple[int, dict[str, dict]]:
    """The header's length and its tensors: dtype, shape and data_offsets by name."""
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        tensors = json.loads(opened.read(length))
    tensors.pop("__metadata__", None)
    return length, tensors


def _cut_off(path: Path) -> str | None:
    """Which tensor a file ends in, if its header is whole and that is what it suffers from."""
    try:
        length, tensors = _raw_header(path)
        data = path.stat().st_size - 8 - length
        by_end = sorted(tensors, key=lambda name: tensors[name]["data_offsets"][1])
        return next(
            f"it ends inside or before tensor {name}"
            for name in by_end
            if tensors[name]["data_offsets"][1] > data
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _weight_files(directory: Path) -> list[str]:
    files = sorted(path.name for path in directory.glob("*.safetensors"))
    if not files:
        raise InputError(f"{directory} has no weights: no *.safetensors file in it")
    return files
