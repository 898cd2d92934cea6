"""Which implementation of an operation runs, on what device, and how a kernel is launched.

An operation asks `use_triton(x)`, then `use_native(x)`: CUDA tensors take the Triton kernel, those
on a CPU the C kernel where one was built, all others the torch reference. `HALA_KERNELS=reference`
takes the reference anywhere, `HALA_KERNELS=triton` the Triton kernel anywhere: on a CPU that needs
Triton's interpreter (`TRITON_INTERPRET=1`) and serves tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch

from hala_kernels import native, triton_lang

CHOICES = ("auto", "reference", "triton")


def _checked(choice: str) -> str:
    if choice not in CHOICES:
        raise ValueError(f"HALA_KERNELS must be one of {', '.join(CHOICES)}, not {choice!r}")
    return choice


_choice = _checked(os.environ.get("HALA_KERNELS") or "auto")


def use_triton(x: torch.Tensor) -> bool:
    """Whether an operation on `x` runs its Triton kernel."""
    return _choice != "reference" and (x.is_cuda or _choice == "triton")


def use_native(x: torch.Tensor) -> bool:
    """Whether an operation on `x` may run its C kernel."""
    return (
        _choice == "auto"
        and x.is_cpu
        and x.dtype in (torch.bfloat16, torch.float32)
        and native.library() is not None
    )


@contextmanager
def forced(choice: str) -> Iterator[None]:
    """Within the block HALA_KERNELS is `choice`."""
    global _choice
    before, _choice = _choice, _checked(choice)
    try:
        yield
    finally:
        _choice = before


@dataclass(frozen=True)
class Device:
    """What the choice of a launch depends on."""

    name: str
    capability: int  # 90 for sm_90; 0 for the interpreter
    multiprocessors: int

    @property
    def has_descriptors(self) -> bool:
        """Tensor descriptors are moved by the bulk copy engine (TMA)."""
        return self.capability >= 90


INTERPRETER = Device("interpreter", 0, 4)

_stand_in: Device | None = None


@contextmanager
def standing_in(device: Device) -> Iterator[None]:
    """Within the block launches are chosen for `device`, whatever is there.

    For the compile gate, which has no GPU, and for tests of every chip's path in the interpreter.
    """
    global _stand_in
    before, _stand_in = _stand_in, device
    try:
        yield
    finally:
        _stand_in = before


def device_of(x: torch.Tensor) -> Device:
    """The device that holds `x`."""
    if _stand_in is not None:
        return _stand_in
    return _cuda_device(x.device.index) if x.is_cuda else INTERPRETER


@lru_cache
def _cuda_device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    return Device(
        properties.name, properties.major * 10 + properties.minor, properties.multi_processor_count
    )


Launcher = Callable[..., None]


def _run(kernel, grid: tuple[int, ...], *args, **options) -> None:
    if not triton_lang.AVAILABLE:
        raise RuntimeError(
            "this operation on a CUDA tensor needs Triton: pip install triton, or set "
            "HALA_KERNELS=reference"
        )
    # A tensor descriptor has its tensor as `base`.
    tensors = (getattr(a, "base", a) for a in args)
    device = next(t.device for t in tensors if isinstance(t, torch.Tensor))
    if device.type == "cpu" and isinstance(kernel, triton_lang.triton.JITFunction):
        raise RuntimeError("HALA_KERNELS=triton on a CPU tensor needs TRITON_INTERPRET=1")
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # Triton launches on the current device
            kernel[grid](*args, **options)
    else:
        kernel[grid](*args, **options)


_launcher: Launcher = _run


def launch(kernel, grid: tuple[int, ...], *args, **options) -> None:
    """`kernel[grid](*args, **options)`; nothing at all for an empty grid.

    `options` are the kernel's constants and Triton's own (num_warps, num_stages).
    """
    if 0 not in grid:
        _launcher(kernel, grid, *args, **options)


@contextmanager
def launching_with(launcher: Launcher) -> Iterator[None]:
    """Within the block each launch is handed to `launcher` instead: the compile gate's hook."""
    global _launcher
    before, _launcher = _launcher, launcher
    try:
        yield
    finally:
        _launcher = before
