"""Device time of one call: CUDA graph replays between events, over inputs that outgrow the L2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median, quantiles

import torch

from bench.kernels.problem import Problem

L2_MULTIPLE = 3
"""Inputs of a measurement add up to this many times the L2, so that each call finds it cold."""

MOST_SETS = 64
MEASURED_MS = 40.0
LEAST_SAMPLES, MOST_SAMPLES = 12, 100


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call; `graphed`: launched from a CUDA graph."""

    samples: list[float]
    graphed: bool

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return low, high


class Stopwatch:
    """Calls `function` on each of several input sets in turn; `lap` times all of them once."""

    def __init__(self, function: Callable[..., object], sets: list[tuple]) -> None:
        self.sets = sets
        self._function = function
        self._run_all()  # compiles
        torch.cuda.synchronize()
        self._graph = self._capture()
        self.lap()

    @property
    def graphed(self) -> bool:
        return self._graph is not None

    def lap(self) -> float:
        """Microseconds of a call, from events around one pass over the input sets."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run_all()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / len(self.sets)

    def _run_all(self) -> None:
        for arguments in self.sets:
            self._function(*arguments)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """A graph of all calls, or None for a function that synchronises with the host."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(stream):
                self._run_all()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                self._run_all()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        return graph


def input_sets(problem: Problem, device: torch.device) -> list[tuple]:
    """Fresh inputs, as many sets as it takes to outgrow the L2."""
    first = problem.make(device)
    size = sum(a.nbytes for a in first if isinstance(a, torch.Tensor))
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    count = min(MOST_SETS, max(1, -(-L2_MULTIPLE * l2 // max(size, 1))))
    return [first, *(problem.make(device) for _ in range(count - 1))]


def sample_count(first_lap_us: float, calls: int) -> int:
    """How many laps of `calls` calls fill `MEASURED_MS`."""
    laps = MEASURED_MS * 1e3 / max(first_lap_us * calls, 1.0)
    return int(min(MOST_SAMPLES, max(LEAST_SAMPLES, laps)))


def time_on_gpu(function: Callable[..., object], problem: Problem, device: torch.device) -> Timing:
    watch = Stopwatch(function, input_sets(problem, device))
    laps = sample_count(watch.lap(), len(watch.sets))
    return Timing([watch.lap() for _ in range(laps)], watch.graphed)


@dataclass(frozen=True)
class Limits:
    """What this GPU does: bytes a second copied (read plus written), FLOPs a second."""

    copy: float
    bf16: float
    fp8: float | None

    def floor_us(self, problem: Problem) -> float:
        rate = {"bf16": self.bf16, "fp8": self.fp8}[problem.rate] or self.bf16
        return 1e6 * max(problem.bytes / self.copy, problem.flops / rate)


@lru_cache
def limits(device: torch.device) -> Limits:
    """Measured once a process: a 1 GiB copy, and 8192-cubed products on random data."""
    n, copied = 8192, 2**30

    def rate(problem: Problem, work: float) -> float:
        return work / (time_on_gpu(problem.contenders["ours"], problem, device).median * 1e-6)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    copy = Problem(
        "copy",
        lambda _: (randn(copied // 2), randn(copied // 2)),
        {"ours": lambda a, b: b.copy_(a)},
        2 * copied,
    )
    bf16 = Problem("bf16", lambda _: (randn(n, n), randn(n, n)), {"ours": torch.mm}, 0)
    fp8_rate = None
    if torch.cuda.get_device_capability(device) >= (8, 9):
        one = torch.ones((), device=device)

        def operands(_: torch.device) -> tuple:
            return tuple(randn(n, n).to(torch.float8_e4m3fn) for _ in range(2))

        fp8 = Problem(
            "fp8",
            operands,
            {
                "ours": lambda a, b: torch._scaled_mm(
                    a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
                )
            },
            0,
        )
        fp8_rate = rate(fp8, 2.0 * n**3)
    return Limits(rate(copy, 2.0 * copied), rate(bf16, 2.0 * n**3), fp8_rate)
