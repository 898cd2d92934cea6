"""What a benchmark measures: problems, their contenders, and the spaces that a tuner searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch

from hala_kernels.tuning import Config

OURS = "ours"


@dataclass(frozen=True)
class Problem:
    """One operation at one shape.

    `make(device)` gives fresh random arguments (the meta device must do: launches are compiled
    ahead with it); each contender is a function of them. `bytes` and `flops` are the least that
    the operation moves and computes; `rate` is the unit that does the FLOPs.
    """

    name: str
    make: Callable[[torch.device], tuple]
    contenders: dict[str, Callable[..., object]]
    bytes: int
    flops: int = 0
    rate: str = "bf16"

    def __post_init__(self) -> None:
        if OURS not in self.contenders:
            raise ValueError(f"{self.name}: no contender is called {OURS!r}")


def contests(full: Sequence[Problem], smoke: Sequence[Problem]) -> list:
    """Parameters (problem, contender) for pytest: `full` on a GPU, `smoke` without one."""
    problems = full if torch.cuda.is_available() else smoke
    return [
        pytest.param(problem, name, id=f"{problem.name}|{name}")
        for problem in problems
        for name in problem.contenders
    ]


@dataclass(frozen=True)
class Space:
    """What the tuner searches for one launch table.

    For each of `shapes` it times OURS of `problem(shape)` with every configuration that
    `candidates(shape)` gives, and writes an entry that holds where the keys `where` are equal and
    the keys `up_to` not exceeded. Put smaller bounds first; the table's generic entries follow.
    """

    table: str
    shapes: Sequence[dict[str, int]]
    candidates: Callable[[dict[str, int]], list[Config]]
    problem: Callable[[dict[str, int]], Problem]
    where: tuple[str, ...] = ()
    up_to: tuple[str, ...] = ()
