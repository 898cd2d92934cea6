"""`python -m bench.translate_job`: what a translation job costs beside its model.

`overhead`: the shipped model over distinct short sentences, in this process. Time is the engine's
while it is asked for its next output, less the time in which it waits for the job to make the next
prompt, plus what the job spends in the engine's tokenizer; the rest is the job's: scanning and
reading rows, masking, cutting, keeping answers, joining, checking, writing.

`scale`: a tiny random model over many short rows, killed with SIGKILL when certain numbers of rows
are done. Resuming is timed from the start of the process to the first new answer, and memory is
the kernel's record (VmHWM) of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.checkpoint import Dims, ensure
from bench.engine_scaling import sentences

LARGEST_SHARE = 0.05
"""Of the run time that the job may take beside the engine."""

TINY = Dims(
    vocab=512, hidden=32, layers=2, heads=2, kv_heads=1, ff=64, attention_layers=(1,), context=256
)
SHARD_ROWS = 10_000


class Timed:
    """An engine whose time is counted. It stands for the engine towards the job."""

    def __init__(self, engine: Any):
        self._engine = engine
        self.seconds = 0.0
        self.tokenizer = _TimedTokenizer(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompts: Any, params: Any, *, ordered: bool) -> Iterator[Any]:
        outputs = self._engine.generate(
            self._not_counted(prompts), self._not_counted(params), ordered=ordered
        )
        while True:
            start = time.perf_counter()
            output = next(outputs, None)
            self.seconds += time.perf_counter() - start
            if output is None:
                return
            yield output

    def _not_counted(self, items: Any) -> Iterator[Any]:
        """The job makes these while the engine waits."""
        items = iter(items)
        while True:
            start = time.perf_counter()
            item = next(items, None)
            self.seconds -= time.perf_counter() - start
            if item is None:
                return
            yield item


class _TimedTokenizer:
    """The engine's tokenizer, whose work is the engine's."""

    def __init__(self, timed: Timed):
        self._timed, self._tokenizer = timed, timed._engine.tokenizer
        self.has_chat_template = self._tokenizer.has_chat_template

    def encode(self, text: str) -> list[int]:
        return self._counted(self._tokenizer.encode, text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._counted(self._tokenizer.encode_batch, texts)

    def apply_chat(self, messages: list[dict]) -> list[int]:
        return self._counted(self._tokenizer.apply_chat, messages)

    def _counted(self, work: Any, argument: Any) -> Any:
        start = time.perf_counter()
        result = work(argument)
        self._timed.seconds += time.perf_counter() - start
        return result


def overhead(rows: int, repeats: int, scratch: Path) -> dict[str, Any]:
    """Seconds of the job and of the engine in it, for each repeat."""
    from hala_engine.jobs import job
    from hala_engine.translate import TranslateConfig, translate_job

    scratch.mkdir(parents=True, exist_ok=True)
    source, target = scratch / "rows.jsonl", scratch / "out"
    lines = (json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(sentences(rows)))
    source.write_text("".join(lines))
    config = TranslateConfig(inputs=(str(source),), output=str(target), overwrite=True)
    load, samples = job.load_engine, []
    for _ in range(repeats):
        made: list[Timed] = []

        def loaded(config: Any, made: list[Timed] = made) -> Timed:
            start = time.perf_counter()
            made.append(Timed(load(config)))
            made[0].load_seconds = time.perf_counter() - start
            return made[0]

        job.load_engine = loaded
        start = time.perf_counter()
        translate_job(config)
        [timed] = made
        seconds = time.perf_counter() - start - timed.load_seconds
        samples.append({"job_seconds": seconds, "engine_seconds": timed.seconds})
    job.load_engine = load
    shares = [1 - sample["engine_seconds"] / sample["job_seconds"] for sample in samples]
    share = sorted(shares)[len(shares) // 2]
    return {
        "rows": rows,
        "samples": samples,
        "share": share,
        "us_per_row": 1e6 * share * samples[-1]["job_seconds"] / rows,
        "met": share < LARGEST_SHARE,
    }


def scale(rows: int, stops: list[int], scratch: Path, console: Console) -> dict[str, Any]:
    """Kill and resume one job at each of `stops` rows, then let it end."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model = ensure(scratch / "model", TINY)
    source, target = scratch / "rows.jsonl", scratch / "out"
    with source.open("w") as file:
        for i in range(rows):
            text = f"Village {i} has {i % 89} wells and {i % 97} old trees."
            file.write(json.dumps({"id": i, "text": text}) + "\n")
    runs = []
    for stop in [*stops, None]:
        runs.append(_timed_run(source, target, model, stop))
        console.print(json.dumps(runs[-1]), highlight=False)
    start = time.monotonic()
    subprocess.run(_command(source, target, model), check=True, capture_output=True)
    manifest = json.loads((target / "manifest.json").read_text())
    return {
        "rows": rows,
        "runs": runs,
        "already_complete_seconds": time.monotonic() - start,
        "job_seconds": manifest["wall_seconds"],
        "counts": manifest["counts"],
    }


def _command(source: Path, target: Path, model: Path) -> list[str]:
    child = "from bench.translate_job import child; child()"
    arguments = ["translate", source, "--output", target, "--model", model, "--max-new-tokens", 4]
    flags = ["--shard-rows", SHARD_ROWS, "--max-batch-size", 256, "--device", "cpu"]
    return [sys.executable, "-c", child, *map(str, [*arguments, *flags])]


def _timed_run(source: Path, target: Path, model: Path, stop: int | None) -> dict[str, Any]:
    """One process of the job, killed when `stop` rows are done."""
    note = target.with_name("first_answer")
    note.unlink(missing_ok=True)
    done_before = _rows_done(target)
    start = time.time()
    process = subprocess.Popen(
        _command(source, target, model),
        env=os.environ | {"FIRST_ANSWER": str(note)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None and (stop is None or _rows_done(target) < stop):
        peak = max(peak, _peak_rss(process.pid))
        time.sleep(0.05)
    seconds = time.time() - start
    process.kill()
    process.wait()
    return {
        "rows_done_before": done_before,
        "rows_done_after": _rows_done(target),
        "first_answer_seconds": float(note.read_text()) - start,
        "seconds": seconds,
        "peak_rss_bytes": peak,
    }


def _peak_rss(pid: int) -> int:
    """Bytes; of the program alone, not of what it was forked from. 0 when it has ended."""
    with suppress(OSError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _rows_done(target: Path) -> int:
    return SHARD_ROWS * len(list((target / ".progress").glob("part-*.json")))


def child() -> None:
    """The command, noting when it has its first answer."""
    from hala_engine.cli import main as command
    from hala_engine.jobs.blocks import Asker

    ask = Asker.ask

    def noting(self: Asker, *arguments: Any) -> Iterator[Any]:
        for answer in ask(self, *arguments):
            if note := os.environ.pop("FIRST_ANSWER", None):
                Path(note).write_text(str(time.time()))
            yield answer

    Asker.ask = noting
    command()


def print_tables(result: dict[str, Any], console: Console) -> None:
    if "overhead" in result:
        part = result["overhead"]
        console.print(
            f"{part['rows']:,} rows: the job takes {part['share']:.1%} of the run beside the "
            f"engine, {part['us_per_row']:.0f} us a row",
            highlight=False,
        )
    if "scale" in result:
        table = Table("rows done", "to the first answer, s", "peak memory, GB")
        for run in result["scale"]["runs"]:
            table.add_row(
                f"{run['rows_done_before']:,}",
                f"{run['first_answer_seconds']:.1f}",
                f"{run['peak_rss_bytes'] / 1e9:.2f}",
            )
        console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.translate_job", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["overhead", "scale"])
    parser.add_argument("--rows", type=int, default=20_000, help="of overhead")
    parser.add_argument("--repeats", type=int, default=3, help="of overhead")
    parser.add_argument("--scale-rows", type=int, default=1_000_000)
    parser.add_argument("--stops", default="10000,100000,990000", help="rows done at each kill")
    parser.add_argument("--dir", type=Path, default=Path("runs/translate-job-bench"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "bench": "translate_job",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.cpu(),
        "versions": machine.versions(),
        **machine.commit(),
    }
    if "overhead" in options.parts:
        result["overhead"] = overhead(options.rows, options.repeats, options.dir / "overhead")
    if "scale" in options.parts:
        stops = [int(stop) for stop in options.stops.split(",")]
        result["scale"] = scale(
            options.scale_rows, stops, options.dir / "scale", Console(stderr=True)
        )
    print_tables(result, Console())
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
