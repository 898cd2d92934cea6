"""The `measure` fixture: one contender at one problem, under pytest-benchmark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from bench.kernels.problem import OURS, Problem
from bench.kernels.timing import Stopwatch, input_sets, limits, sample_count
from hala_kernels import backend, triton_lang

BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seconds", type=float, default=None, help="leave out what has not begun by then"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ours first, then peers, then those that torch compiles: what a time limit leaves out."""

    def turn(item: pytest.Item) -> int:
        contender = item.callspec.params["contender"]
        return 0 if contender == OURS else 2 if "compile" in contender.lower() else 1

    items.sort(key=turn)


@pytest.fixture
def measure(benchmark, request: pytest.FixtureRequest) -> Callable[[Problem, str], None]:
    allowed = request.config.getoption("--seconds")
    if allowed is not None and time.monotonic() - BEGAN > allowed:
        pytest.skip(f"not begun within {allowed:.0f} s")

    def run(problem: Problem, contender: str) -> None:
        benchmark.group = problem.name
        benchmark.extra_info.update(
            problem=problem.name,
            contender=contender,
            bytes=problem.bytes,
            flops=problem.flops,
            rate=problem.rate,
        )
        function = problem.contenders[contender]
        if torch.cuda.is_available():
            _on_gpu(benchmark, function, problem)
        else:
            _smoke(benchmark, function, problem, contender)

    return run


def _on_gpu(benchmark, function: Callable, problem: Problem) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    machine = limits(device)
    torch.cuda.reset_peak_memory_stats()
    watch = Stopwatch(function, input_sets(problem, device))
    laps: list[float] = []
    benchmark.pedantic(
        lambda: laps.append(watch.lap()), rounds=sample_count(watch.lap(), len(watch.sets))
    )
    benchmark.extra_info.update(
        device_us=laps,
        floor_us=machine.floor_us(problem),
        limits=asdict(machine),
        graphed=watch.graphed,
        input_sets=len(watch.sets),
        peak_bytes=torch.cuda.max_memory_allocated(),
    )


def _smoke(benchmark, function: Callable, problem: Problem, contender: str) -> None:
    """One call, nothing compiled: that the benchmark runs, not how fast."""
    arguments = problem.make(torch.device("cpu"))
    interpreted = contender == OURS and triton_lang.AVAILABLE
    with (
        backend.forced("triton" if interpreted else "auto"),
        torch.compiler.set_stance("force_eager"),
    ):
        benchmark.pedantic(function, args=arguments, rounds=1)
