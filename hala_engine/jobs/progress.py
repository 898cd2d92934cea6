"""How far the job is: a bar on a terminal, a line a minute elsewhere. All of it to stderr."""

import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hala_engine.engine import EngineStats

_FIRST_LINE_AFTER = 10.0
_LINE_EVERY = 60.0
_REFRESH_EVERY = 0.2


class Progress(Protocol):
    """Told of rows as they are finished; `update` counts within the shard in work."""

    def update(self, rows_in_shard: int, stats: "EngineStats") -> None: ...

    def shard_done(self, rows: int) -> None: ...

    def close(self) -> None: ...


class Meter:
    """Rows and tokens of this run, and the rates that follow."""

    def __init__(self, total: int, done: int):
        self.total, self.rows = total, done
        self._rows_before, self._shards_done = done, done
        self._start = time.monotonic()
        self._stats: EngineStats | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def update(self, rows_in_shard: int, stats: "EngineStats") -> None:
        self.rows = self._shards_done + rows_in_shard
        self._stats = stats

    def shard_done(self, rows: int) -> None:
        self._shards_done += rows
        self.rows = self._shards_done

    def describe(self) -> str:
        """`rows 1,250/10,000 (12%) | ETA 0:03:20 | ...`, the most wanted first."""
        share = self.rows / self.total if self.total else 1.0
        seconds = max(self.seconds, 1e-9)
        parts = [
            f"rows {self.rows:,}/{self.total:,} ({share:.0%})",
            f"ETA {self._eta()}",
            f"{(self.rows - self._rows_before) / seconds:,.1f} rows/s",
        ]
        if self._stats is not None:
            stats = self._stats
            parts += [
                f"in {stats.prompt_tokens / seconds:,.0f} tok/s",
                f"out {stats.output_tokens / seconds:,.0f} tok/s",
                f"batch {stats.running}/{stats.max_batch_size}",
                f"cache {stats.cache_use:.0%}",
            ]
        return " | ".join(parts)

    def _eta(self) -> str:
        done = self.rows - self._rows_before
        if not done:
            return "unknown"
        left = int((self.total - self.rows) * self.seconds / done)
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


class LogProgress:
    """A line after some seconds, then one a minute, and one at the end."""

    def __init__(self, meter: Meter):
        self._meter = meter
        self._next = _FIRST_LINE_AFTER

    def update(self, rows_in_shard: int, stats: "EngineStats") -> None:
        self._meter.update(rows_in_shard, stats)
        if self._meter.seconds >= self._next:
            self._next = self._meter.seconds + _LINE_EVERY
            self._print()

    def shard_done(self, rows: int) -> None:
        self._meter.shard_done(rows)

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        print(self._meter.describe(), file=sys.stderr, flush=True)


class BarProgress:
    """A bar that is drawn in place."""

    def __init__(self, meter: Meter):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._meter = meter
        self._bar = RichProgress(
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=meter.total, completed=meter.rows)
        self._bar.start()
        self._next = 0.0

    def update(self, rows_in_shard: int, stats: "EngineStats") -> None:
        self._meter.update(rows_in_shard, stats)
        if self._meter.seconds >= self._next:
            self._next = self._meter.seconds + _REFRESH_EVERY
            self._draw()

    def shard_done(self, rows: int) -> None:
        self._meter.shard_done(rows)
        self._draw()

    def close(self) -> None:
        self._draw()
        self._bar.stop()

    def _draw(self) -> None:
        meter = self._meter
        self._bar.update(
            self._task, completed=meter.rows, description=meter.describe(), refresh=True
        )


class NoProgress:
    """For callers of the Python function that want silence."""

    def update(self, rows_in_shard: int, stats: "EngineStats") -> None:
        pass

    def shard_done(self, rows: int) -> None:
        pass

    def close(self) -> None:
        pass


def make_progress(total: int, done: int, quiet: bool) -> Progress:
    """The form that suits where stderr goes."""
    if quiet:
        return NoProgress()
    meter = Meter(total, done)
    return BarProgress(meter) if sys.stderr.isatty() else LogProgress(meter)
