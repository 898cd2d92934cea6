"""CPU kernels in C: compiled when the package is installed, absent where there was no compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

POINTER, SIZE, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float

_BUILDS = (
    ("_native_avx512", {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"}),
    ("_native_avx2", {"avx2", "fma", "f16c", "bmi2"}),
)
"""Builds of the same sources, the best first, and what a processor must have for each."""


@cache
def library() -> ctypes.CDLL | None:
    """The best build that this processor runs; None where there is none.

    It shares torch's OpenMP threads: its symbols are found in what torch has loaded.
    """
    flags = _processor_flags()
    for name, needed in _BUILDS:
        if needed <= flags and (path := _path(name)):
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                continue  # built on another system, or torch here has no OpenMP
    return None


def function(name: str, *argument_types: type) -> Callable[..., None] | None:
    """The C function `name`, which returns nothing; None where there is no build. Raises
    ImportError for a build of older sources."""
    if library() is None:
        return None
    found = getattr(library(), name, None)
    if found is None:
        raise ImportError(
            f"{library()._name} was built from older sources and has no {name}: "
            "install the package again (pip install -e .)"
        )
    found.argtypes, found.restype = argument_types, None
    return found


def is_bf16(x: torch.Tensor) -> int:
    """How the C functions are told a dtype: 1 for bfloat16, 0 for float32."""
    return int(x.dtype == torch.bfloat16)


def _path(name: str) -> Path | None:
    directory = Path(__file__).parent
    return next((p for s in EXTENSION_SUFFIXES if (p := directory / f"{name}{s}").exists()), None)


def _processor_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
