"""What a compiled kernel uses, read from its cubin and PTX."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_USAGE = re.compile(r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_TENSOR_CORE = re.compile(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)(\S*)")
_TYPES = re.compile(r"\.(e4m3|e5m2|bf16|f16|tf32|kind::\w+)\b")


@dataclass(frozen=True)
class Resources:
    """`spilled`: bytes a thread keeps in local memory; `shared`: bytes a block asks for;
    `tensor_memory`: columns of sm_100's."""

    registers: int
    spilled: int
    shared: int
    warps: int
    stages: int
    tensor_core: str
    tensor_memory: int = 0


def measure(kernels: Sequence[object]) -> list[Resources]:
    """Resources of Triton's compiled kernels, with one run of cuobjdump for all of them."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{i:04}.cubin" for i in range(len(kernels))]
        for path, kernel in zip(paths, kernels, strict=True):
            path.write_bytes(kernel.asm["cubin"])
        usages = [_usage(path) for path in paths]
    return [
        Resources(
            registers=registers,
            spilled=spilled,
            shared=kernel.metadata.shared,
            warps=kernel.metadata.num_warps,
            stages=kernel.metadata.num_stages,
            tensor_core=tensor_core(kernel.asm["ptx"]),
            tensor_memory=getattr(kernel.metadata, "tmem_size", None) or 0,
        )
        for kernel, (registers, spilled) in zip(kernels, usages, strict=True)
    ]


def _usage(path: Path) -> tuple[int, int]:
    """Registers of a thread, and its bytes of stack and local memory."""
    output = subprocess.run(
        [_cuobjdump(), "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = _USAGE.findall(output)
    if len(found) != 1:
        raise RuntimeError(f"cuobjdump named {len(found)} kernels, not one:\n{output}")
    _, registers, stack, local = found[0]
    return int(registers), int(stack) + int(local)


def _cuobjdump() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def tensor_core(ptx: str) -> str:
    """The tensor-core instructions in `ptx`, such as "wgmma e4m3", or "-"."""
    found = {
        " ".join([name.split(".")[0], *dict.fromkeys(_TYPES.findall(rest))])
        for name, rest in _TENSOR_CORE.findall(ptx)
    }
    return ", ".join(sorted(found)) or "-"
