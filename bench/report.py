"""`python -m bench.report`: figures and tables from the results that are committed.

Reads the JSON files of a directory, writes PNG files beside them, and with `--markdown` prints the
tables of the README. What has no JSON there is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from bench import plots, tables

Result = dict[str, Any]


class Report(NamedTuple):
    """What is made of a result file: figures by their names, and a table. `needs`: the part of the
    result without which there is nothing to draw."""

    figures: dict[str, Callable[[Result], Figure]]
    table: Callable[[Result], str]
    needs: tuple[str, ...] = ()


REPORTS = {
    "engine_cpu.json": Report({"engine_cpu.png": plots.engine_cpu}, tables.engine_cpu),
    "profile_cpu.json": Report(
        {"step_cpu.png": plots.step_cpu, "profile_cpu.png": plots.profile_cpu},
        tables.profile_cpu,
    ),
    "engine_scaling.json": Report(
        {"engine_scaling.png": plots.engine_scaling}, tables.engine_scaling
    ),
    "engine.json": Report(
        {"engine_gpu.png": plots.engine_gpu}, tables.engine_gpu, ("parts", "batches", "steps")
    ),
    "kernels.json": Report({"kernels_gpu.png": plots.kernels_gpu}, tables.kernels_gpu),
}
"""By the file that the benchmark writes."""


def make(directory: Path) -> tuple[list[Path], list[str]]:
    """Writes the figures of every result in `directory`; their paths, and the tables."""
    written, texts = [], []
    for name, report in REPORTS.items():
        file = directory / name
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        if _has(result, report.needs):
            for figure_name, draw in report.figures.items():
                target = directory / figure_name
                # Without the date, the same result gives the same bytes.
                draw(result).savefig(target, bbox_inches="tight", metadata={"Software": None})
                written.append(target)
        texts.append(f"{tables.caption(name, result)}\n\n{report.table(result)}")
    return written, texts


def _has(result: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(result, dict) or not result.get(key):
            return False
        result = result[key]
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="print the tables")
    options = parser.parse_args(arguments)
    if not options.results.is_dir():
        parser.error(f"--results {options.results}: no such directory")
    written, texts = make(options.results)
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    if options.markdown:
        print("\n\n".join(texts))
    if not texts:
        print(f"error: no result of {', '.join(REPORTS)} in {options.results}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
