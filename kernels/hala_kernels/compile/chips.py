"""The chips that kernels are built for, and a Triton driver that stands in for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hala_kernels.backend import Device, standing_in


@dataclass(frozen=True)
class Chip:
    """`shared_limit`: bytes of shared memory that a block may ask for (CUDA programming guide,
    "Technical specifications per compute capability")."""

    capability: int
    multiprocessors: int
    shared_limit: int

    @property
    def device(self) -> Device:
        return Device(f"sm_{self.capability}", self.capability, self.multiprocessors)


TENSOR_MEMORY_COLUMNS = 512
"""That a block of sm_100 may ask for; no other chip here has tensor memory."""

CHIPS = {
    89: Chip(89, 142, 99 * 1024),  # L4, L40S, RTX 4090
    90: Chip(90, 132, 227 * 1024),  # H100, H200
    100: Chip(100, 148, 227 * 1024),  # B200
}


class _Driver:
    """What Triton asks of a driver in order to compile."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps its compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def pretending(chip: Chip, device: Device | None = None) -> Iterator[None]:
    """Within the block Triton compiles for `chip` and operations choose their launches for it, or
    for `device`, a particular GPU of that capability.

    The driver stays: to take it back Triton would look for a real one, and there may be none.
    """
    from triton.runtime.driver import driver

    driver.set_active(_Driver(chip.capability))
    with standing_in(device or chip.device):
        yield
