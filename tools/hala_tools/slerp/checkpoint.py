"""The tensors of a model directory: what the headers of its safetensors files say, and their
values, mapped a part at a time."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from hala_tools.slerp.errors import InputError, MergeError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

FLOATING = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
OTHER = {
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPES = FLOATING | OTHER
"""safetensors' name of a dtype -> numpy's."""


_MAPPED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""How parts of files are mapped: all pages at once, which costs less than one after the other."""


@dataclass(frozen=True)
class Spec:
    """What a file's header says of a tensor. `dtype` is safetensors' name of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Tensor(Spec):
    """A tensor in the safetensors file at `path`, its bytes from `start` on."""

    path: Path
    start: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] elements of the flattened tensor: a view of the file, mapped for as long
        as it lives."""
        dtype = DTYPES[self.dtype]
        offset, size = self._span(start, stop)
        if not size:
            return np.empty(0, dtype)
        page = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with self._opened() as file:
            try:
                mapped = mmap.mmap(file, offset - page + size, access=mmap.ACCESS_READ, offset=page)
            except ValueError:
                raise MergeError(
                    f"{self.path}: ends inside tensor {self.name}; it was cut off meanwhile"
                ) from None
        return np.frombuffer(mapped, dtype, stop - start, offset - page)

    def announce(self, start: int, stop: int) -> None:
        """Have the system begin to read what will be wanted soon."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with self._opened() as file:
                os.posix_fadvise(file, *self._span(start, stop), os.POSIX_FADV_WILLNEED)

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        itemsize = DTYPES[self.dtype].itemsize
        return self.start + start * itemsize, (stop - start) * itemsize

    @contextmanager
    def _opened(self) -> Iterator[int]:
        file = os.open(self.path, os.O_RDONLY)
        try:
            yield file
        finally:
            os.close(file)


class Checkpoint:
    """config.json and the tensors of `directory`, sharded or in one file; only headers are read.

    Raises InputError, naming the file, when something is missing, not whole, or quantized.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._refuse_adapter()
        self.config = read_json(directory / CONFIG)
        self._refuse_quantized()
        placed = self._index()
        files = sorted(set(placed.values())) if placed else [self._only_file()]
        self.tensors: dict[str, Tensor] = {}
        for file in files:
            for tensor in _header(directory / file):
                self._add(tensor, placed)
        for name, file in placed.items():
            if name not in self.tensors:
                raise InputError(f"{directory / INDEX} places {name} in {file}, which lacks it")
        if not self.tensors:
            raise InputError(f"{directory} has no tensors; copy or download its weights again")

    @property
    def untied(self) -> bool:
        """Whether config.json says that the output projection is not the embedding."""
        return self.config.get("tie_word_embeddings") is False

    def _refuse_adapter(self) -> None:
        """A directory with a whole model beside the adapter is taken for the model."""
        whole = any((self.directory / name).exists() for name in (WEIGHTS, INDEX))
        if (self.directory / "adapter_config.json").exists() and not whole:
            raise InputError(
                f"{self.directory} is a LoRA adapter; merge it into its model first "
                "(peft: merge_and_unload), then give that model"
            )

    def _refuse_quantized(self) -> None:
        if self.config.get("quantization_config"):
            raise InputError(
                f"{self.directory / CONFIG} has a quantization_config: quantized weights cannot be "
                "interpolated; merge the unquantized checkpoints, then quantize the result"
            )

    def _index(self) -> dict[str, str]:
        path = self.directory / INDEX
        if not path.exists():
            return {}
        placed = read_json(path).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise InputError(f"{path} has no weight_map")
        for name, file in placed.items():
            if not (self.directory / str(file)).is_file():
                raise InputError(f"{path} places {name} in {file}, which is not there")
        return placed

    def _only_file(self) -> str:
        found = sorted(path.name for path in self.directory.glob("*.safetensors"))
        if WEIGHTS in found:
            return WEIGHTS
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{self.directory} has {len(found)} safetensors files and no {INDEX} that says "
                "which are the model; copy or download the index as well"
            )
        raise InputError(
            f"{self.directory} has no safetensors files; convert its weights first "
            "(transformers: save_pretrained)"
        )

    def _add(self, tensor: Tensor, placed: dict[str, str]) -> None:
        if tensor.name in self.tensors:
            other = self.tensors[tensor.name].path.name
            raise InputError(f"{tensor.path}: tensor {tensor.name} is in {other} as well")
        if placed.get(tensor.name, tensor.path.name) != tensor.path.name:
            raise InputError(
                f"{tensor.path}: tensor {tensor.name} is here, {INDEX} places it in "
                f"{placed[tensor.name]}; copy or download the checkpoint again"
            )
        self.tensors[tensor.name] = tensor


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an InputError that says what is wrong with the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}; is it a model directory?") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _header(path: Path) -> list[Tensor]:
    """The tensors of a file, in the order of their bytes, once safetensors has found it whole."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({_cut_off(path) or error}); "
            "copy or download it again"
        ) from None
    entries.pop("__metadata__", None)
    tensors = [
        Tensor(name, _dtype(path, name, entry), tuple(entry["shape"]), path, 8 + length + begin)
        for name, entry in entries.items()
        for begin in entry["data_offsets"][:1]
    ]
    return sorted(tensors, key=lambda tensor: tensor.start)


def _dtype(path: Path, name: str, entry: dict[str, Any]) -> str:
    dtype = entry["dtype"]
    if dtype.startswith(("F8_", "F6_", "F4")):
        raise InputError(
            f"{path}: tensor {name} has dtype {dtype}: quantized weights cannot be interpolated; "
            "merge the unquantized checkpoints, then quantize the result"
        )
    if dtype not in DTYPES:
        raise InputError(
            f"{path}: tensor {name} has dtype {dtype}; those that can be merged are "
            f"{', '.join(FLOATING)}"
        )
    return dtype


def _cut_off(path: Path) -> str:
    """What to say of a file that is shorter than its header promises, else nothing."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                return ""
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        need = 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ""
    return f"it has {size:,} of {need:,} bytes" if size < need else ""
