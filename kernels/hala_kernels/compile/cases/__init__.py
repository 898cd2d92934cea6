"""What the compile gate calls: one module for each operation's module.

A module has `TUNED`, the names of its tables in configs/, and

    def cases(table: str, **shape: int) -> Iterator[Case]

giving calls, on meta tensors, that together reach every branch of the kernels of `table`, at the
given shape. `shape` holds what the table's entry bounds or fixes; the defaults of the parameters
lie beyond every bound, for the last entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import torch


@dataclass(frozen=True)
class Case:
    """`call` runs a public operation; `demands`: capability -> pattern that the PTX must match."""

    label: str
    call: Callable[[], object]
    demands: dict[int, str] = field(default_factory=dict)
    capabilities: tuple[int, ...] = (89, 90, 100)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without data."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def operations() -> dict[str, ModuleType]:
    """Operation -> its module of cases."""
    return {m.name: import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__)}
