"""`python -m bench.host`: what the host does for a step, without the model.

Requests of ~100 tokens in and out run through scheduler, packing and the staging of a GPU's steps;
each part is timed in processor time of one thread, and its mean over all steps is given.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.workload import Workload
from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache
from hala_engine.graph_runner import GraphRunner
from hala_engine.packing import pack
from hala_engine.prefix import SharedPrefixes
from hala_engine.sampling import SamplingParams
from hala_engine.schedule import Drawn
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence

PARTS = ("schedule", "pack and stage", "advance", "collect")
VOCABULARY = 65_536
STEP_TOKENS = 8192


class _Model:
    """As much of one as a runner looks at before the first step."""

    cache_spec = CacheSpec((None,) * 6, 8, 64, conv_layers=10, conv_columns=2, conv_width=16)


def measure(batch: int) -> dict[str, Any]:
    """Microseconds of each part, for a job of four batches."""
    workload = Workload("mixed", 4 * batch, batch, (50, 150), (50, 150))
    cache = Cache(
        _Model.cache_spec,
        num_pages=batch * -(-workload.longest() // 16),
        page_size=16,
        max_sequences=batch,
        max_model_len=workload.longest(),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        max_snapshots=16,
    )
    runner = GraphRunner(_Model, cache, torch.device("cpu"), captures=False)
    scheduler = Scheduler(cache, SharedPrefixes(cache, 16), STEP_TOKENS)
    lengths = zip(workload.prompts(VOCABULARY), workload.lengths()[1], strict=True)
    scheduler.add(*(_sequence(i, prompt, output) for i, (prompt, output) in enumerate(lengths)))
    spent: Counter[str] = Counter()

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[part] += time.process_time() - start

    steps = 0
    while scheduler.has_work:
        with timed("schedule"):
            schedule = scheduler.schedule()
        with timed("pack and stage"):
            bucket = runner._bucket(schedule)
            if bucket is None:
                pack(schedule, cache)
            else:
                runner._stage(runner._host[0], bucket, schedule)
        with timed("advance"):
            scheduler.advance(schedule)
        drawn = Drawn(np.full(schedule.samples.sum(), 9))
        with timed("collect"):
            scheduler.collect(schedule, drawn)
        steps += 1
    parts = {part: 1e6 * spent[part] / steps for part in PARTS}
    return {"batch": batch, "steps": steps, "parts_us": parts, "step_us": sum(parts.values())}


def _sequence(index: int, prompt: list[int], output: int) -> Sequence:
    params = SamplingParams(max_new_tokens=output)
    return Sequence(index, prompt, params, 0, len(prompt) + output, stop_ids=frozenset({7}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.host", description=__doc__)
    parser.add_argument("--batches", default="64,256,512", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    options = parser.parse_args(arguments)
    commit = machine.commit()
    torch.set_num_threads(1)
    rows = [measure(int(batch)) for batch in options.batches.split(",")]
    table = Table("batch", *PARTS, "a step", title="microseconds of one thread")
    for row in rows:
        figures = (*row["parts_us"].values(), row["step_us"])
        table.add_row(str(row["batch"]), *(f"{figure:.0f}" for figure in figures))
    Console().print(table)
    if options.json:
        result = {
            "bench": "host",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions(),
            **commit,
            "batches": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
