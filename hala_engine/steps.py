"""One step after the other, and where they overlap."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from hala_engine.runner import Runner
from hala_engine.schedule import Drawn, Schedule
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence
from hala_engine.stats import EngineStats

T = TypeVar("T")


class Steps:
    """Where the runner runs ahead, the device computes a step while what the one before has drawn
    is taken in here and the next is made."""

    def __init__(self, scheduler: Scheduler, runner: Runner, stats: EngineStats) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._stats = stats
        self._in_flight: tuple[Schedule, Callable[[], Drawn]] | None = None

    def next(self) -> list[Sequence]:
        """Start a step, and finish the one before; the sequences that have ended."""
        finished = self._finish() if self._scheduler.needs_all_tokens else []
        schedule = self._scheduler.schedule()
        before, self._in_flight = self._in_flight, None
        if len(schedule):
            self._in_flight = schedule, self._timed(lambda: self._runner.start(schedule))
            self._scheduler.advance(schedule)
            self._stats.steps += 1
        if before is not None:
            finished += self._collect(*before)
        return finished if self._runner.runs_ahead else finished + self._finish()

    def drain(self) -> None:
        """Wait for what is in flight, and drop it."""
        if self._in_flight is not None:
            self._in_flight[1]()
            self._in_flight = None

    def _finish(self) -> list[Sequence]:
        """Take in what the step in flight gives."""
        if self._in_flight is None:
            return []
        in_flight, self._in_flight = self._in_flight, None
        return self._collect(*in_flight)

    def _collect(self, schedule: Schedule, wait: Callable[[], Drawn]) -> list[Sequence]:
        return self._scheduler.collect(schedule, self._timed(wait))

    def _timed(self, work: Callable[[], T]) -> T:
        started = perf_counter()
        try:
            return work()
        finally:
            self._stats.step_seconds += perf_counter() - started
