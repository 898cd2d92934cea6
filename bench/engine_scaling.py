"""`python -m bench.engine_scaling`: does `hala-engine translate` keep its speed as the job grows?

The command translates the first N of the same distinct short sentences (the miniature's grammar
draws them) with the shipped model, for each N in a process of its own, in turn. Rows a second are
counted over the whole process, start-up and model loading too, and over the job alone, by its
manifest. Memory is the kernel's own record of the process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.processes import run_measured
from hala_tools.miniature.corpus import build_corpus

KEPT_SPEED = 0.9
"""The largest job keeps at least this share of the best speed, or throughput falls with size."""

MEMORY_GROWTH = 1.2
"""The largest job takes at most so many times the memory of the one before."""


def sentences(count: int) -> list[str]:
    """Distinct English sentences; always the same."""
    return [sentence.en for sentence in build_corpus(size=count).train]


def measure(sizes: list[int], repeats: int, scratch: Path, console: Console) -> list[dict]:
    """A sample for each size and repeat; sizes in an order that turns round between repeats."""
    scratch.mkdir(parents=True, exist_ok=True)
    texts, samples = sentences(max(sizes)), []
    for repeat in range(repeats):
        for rows in sizes if repeat % 2 == 0 else sizes[::-1]:
            source, target = scratch / f"{rows}.jsonl", scratch / "out"
            lines = (json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts[:rows]))
            source.write_text("".join(lines))
            load = machine.ForeignLoad()
            measured = run_measured(command(source, target))
            foreign = load.share()
            manifest = json.loads((target / "manifest.json").read_text())
            counts = manifest["counts"]
            samples.append(
                {
                    "rows": rows,
                    "repeat": repeat,
                    "foreign_load": foreign,
                    **measured,
                    "job_seconds": manifest["wall_seconds"],
                    "rows_written": counts["rows_written"],
                    "prompt_tokens": counts["prompt_tokens"],
                    "output_tokens": counts["output_tokens"],
                }
            )
            shutil.rmtree(target)
            source.unlink()
            console.print(
                f"{rows:,} rows: {measured['seconds']:.1f} s, "
                f"{measured['max_rss_bytes'] / 1e9:.2f} GB resident",
                highlight=False,
            )
    return samples


def command(source: Path, target: Path) -> list[str]:
    program = [sys.executable, "-m", "hala_engine.cli", "translate", str(source)]
    return [*program, "--output", str(target), "--overwrite", "--device", "cpu"]


def summarize(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians by size, and whether speed and memory hold."""
    by_rows = []
    for rows in sorted({sample["rows"] for sample in samples}):
        mine = [sample for sample in samples if sample["rows"] == rows]
        process = statistics.median(sample["seconds"] for sample in mine)
        job = statistics.median(sample["job_seconds"] for sample in mine)
        by_rows.append(
            {
                "rows": rows,
                "process_rows_per_s": rows / process,
                "job_rows_per_s": rows / job,
                "max_rss_bytes": max(sample["max_rss_bytes"] for sample in mine),
            }
        )
    last = by_rows[-1]
    best = max(row["job_rows_per_s"] for row in by_rows)
    before = by_rows[-2]["max_rss_bytes"] if len(by_rows) > 1 else last["max_rss_bytes"]
    kept, growth = last["job_rows_per_s"] / best, last["max_rss_bytes"] / before
    return {
        "by_rows": by_rows,
        "kept_speed": kept,
        "memory_growth": growth,
        "met": kept >= KEPT_SPEED and growth <= MEMORY_GROWTH,
    }


def print_table(summary: dict[str, Any], console: Console) -> None:
    table = Table("rows", "rows/s, whole process", "rows/s, job alone", "peak memory, GB")
    for row in summary["by_rows"]:
        table.add_row(
            f"{row['rows']:,}",
            f"{row['process_rows_per_s']:,.0f}",
            f"{row['job_rows_per_s']:,.0f}",
            f"{row['max_rss_bytes'] / 1e9:.2f}",
        )
    console.print(table)
    console.print(
        f"the largest job has {summary['kept_speed']:.0%} of the best speed and "
        f"{summary['memory_growth']:.2f} times the memory of the one before: "
        + ("held" if summary["met"] else "NOT held"),
        highlight=False,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_scaling", description=__doc__)
    parser.add_argument("--rows", default="1000,10000,50000", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/scaling-bench"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    options = parser.parse_args(arguments)
    sizes = sorted(map(int, options.rows.split(",")))
    commit = machine.commit()
    samples = measure(sizes, options.repeats, options.dir, Console(stderr=True))
    summary = summarize(samples)
    print_table(summary, Console())
    if options.json:
        result = {
            "bench": "engine_scaling",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions(),
            **commit,
            "samples": samples,
            "summary": summary,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
