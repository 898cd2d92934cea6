"""What a run says: progress on stderr, metrics.jsonl, TensorBoard events, and the speed in them."""

import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hala_trainer.errors import TrainError

NO_TENSORBOARD = (
    "no TensorBoard events: the package tensorboard is not installed "
    "(pip install 'hala-engine[train]', or set log.tensorboard = false)"
)
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


class RunLog:
    """OUT/metrics.jsonl, OUT/tensorboard/ and stderr; with `main` false (ranks above 0) nothing.

    What earlier processes logged after `resumed_step` is about to be trained, and logged, again: it
    is dropped from metrics.jsonl, and TensorBoard is told to forget it.
    Raises TrainError where OUT cannot be written to.
    """

    def __init__(
        self, out: Path, resumed_step: int = 0, tensorboard: bool = True, main: bool = True
    ):
        self.path = out / "metrics.jsonl"
        self._main = main
        self._file = self._events = None
        if not main:
            return
        try:
            drop_after(self.path, resumed_step)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise TrainError(f"{self.path}: cannot write ({error.strerror})") from error
        if tensorboard:
            self._events = _event_writer(out / "tensorboard", resumed_step)
            if self._events is None:
                self.say(NO_TENSORBOARD)

    def say(self, text: str) -> None:
        if self._main:
            print(text, file=sys.stderr, flush=True)

    def metrics(self, row: dict[str, Any]) -> None:
        """Log `row`, which has a "step". JSON has no NaN: numbers that are not finite are null.

        TensorBoard gets the numbers, as train/KEY, or eval/KEY where the key is eval_KEY.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainError(f"{self.path}: cannot write ({error.strerror})") from error
        if self._events is None:
            return
        for key, value in row.items():
            if key != "step" and type(value) in (int, float):
                held_out = key.startswith("eval_")
                tag = f"eval/{key.removeprefix('eval_')}" if held_out else f"train/{key}"
                self._events.add_scalar(tag, value, row["step"])
        self._events.flush()

    def text(self, tag: str, text: str, step: int) -> None:
        """A text for TensorBoard alone, such as a sample answer; Markdown."""
        if self._events is not None:
            self._events.add_text(tag, text, step)
            self._events.flush()

    def step(self, row: dict[str, Any], total: int, seconds_left: float) -> None:
        """Log a training step and say it in one line."""
        self.metrics(row)
        self.say(progress_line(row, total, seconds_left))

    def close(self) -> None:
        for writer in (self._file, self._events):
            if writer is not None:
                writer.close()
        self._file = self._events = None


def drop_after(path: Path, step: int) -> None:
    """Rows of steps up to `step` stay; with 0 (a run from the start) none does."""
    if not path.is_file():
        return
    kept = []
    for row in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if step and json.loads(row)["step"] <= step:
                kept.append(row)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the half line of a killed run
    tmp = path.with_suffix(".tmp")
    tmp.write_text("".join(kept), encoding="utf-8")
    tmp.replace(path)


def _event_writer(folder: Path, resumed_step: int):
    """A SummaryWriter, or None where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_step + 1 if resumed_step else 0)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Meter:
    """Speed between two readings, over all processes together.

    `peak` is one device's dense FLOP/s, or None where unknown (then TFLOP/s are given for MFU).
    """

    def __init__(self, world: int, device: torch.device, peak: float | None):
        self._world, self._device, self._peak = world, device, peak
        self._seconds_a_step = 0.0
        self._restart()

    def _restart(self) -> None:
        self._since = time.monotonic()
        self._steps = self._tokens = self._slots = 0
        self._flops = 0.0

    def add(self, tokens: int, slots: int, flops: float) -> None:
        """One step of all processes: real tokens, places for tokens (padding too), model FLOPs."""
        self._steps += 1
        self._tokens += tokens
        self._slots += slots
        self._flops += flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluating and saving are not training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began

    def read(self) -> dict[str, float]:
        """What metrics.jsonl gets, of the steps since the last reading; the next one starts here.

        Call it after the device has been waited for (a loss was read), or the time is too short.
        """
        seconds = max(time.monotonic() - self._since, 1e-9)
        now = seconds / max(self._steps, 1)
        smooth = 0.8 * self._seconds_a_step + 0.2 * now if self._seconds_a_step else now
        rate = self._flops / seconds / self._world
        row = {
            "seconds": round(seconds, 3),
            "tokens_per_s": round(self._tokens / seconds, 1),
            "tokens_per_s_per_gpu": round(self._tokens / seconds / self._world, 1),
            "tflops_per_gpu": round(rate / 1e12, 4),
            "memory_gb": round(peak_memory(self._device) / 1e9, 3),
            "padding": round(1 - self._tokens / max(self._slots, 1), 4),
        }
        if self._peak:
            row["mfu"] = round(rate / self._peak, 4)
        self._seconds_a_step = smooth
        self._restart()
        return row

    def seconds_left(self, steps: int) -> float:
        return steps * self._seconds_a_step


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has used: tensors on a GPU, or all of its memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def progress_line(row: dict[str, Any], total: int, seconds_left: float) -> str:
    """`row` is a step's numbers and a Meter's reading; of the latter any may be missing."""
    parts = [
        f"step {row['step']}/{total}",
        f"loss {row['loss']:.4f}",
        f"lr {row['lr']:.2e}",
        f"grad {row['grad_norm']:.2f}",
    ]
    if "tokens_per_s" in row:
        speed, each = row["tokens_per_s"], row["tokens_per_s_per_gpu"]
        parts.append(f"{speed:,.0f} tokens/s" + (f" ({each:,.0f} each)" if each < speed else ""))
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    elif "tflops_per_gpu" in row:
        parts.append(f"{row['tflops_per_gpu']:.3g} TFLOP/s")
    if "memory_gb" in row:
        parts.append(f"{row['memory_gb']:.1f} GB")
    if "padding" in row:
        parts.append(f"padding {row['padding']:.1%}")
    return "  ".join([*parts, f"ETA {clock(seconds_left)}"])


def clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
