"""`python -m bench.profile_cpu`: where the time of a step goes on the CPU, by kind of operation.

The CPU benchmark's model with random weights decodes batches of equal lengths. Steps that only
decode and steps with prompts are kept apart; of each kind the quickest quarter counts, as other
work on the machine only adds. Beside them stands the floor: the model's matrix products alone, by
torch, at as many rows. The engine's products and its output projection may be quicker than that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bench import architectures, machine
from bench.checkpoint import TINY, Dims
from bench.part import config_file
from bench.peers import gemm
from bench.stopwatch import REST, Stopwatch, watched
from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.schedule import Drawn, Schedule

MODELS = {"lfm2-350m": Dims(), "tiny": TINY}
KINDS_OF_STEP = ("decode", "prompts")
QUICKEST = 0.25
"""Share of the steps that counts."""


@dataclass(frozen=True)
class Step:
    """`tokens` of a step, of which `decodes` are decoding and after `drawn` of which a next one is
    drawn; seconds in all and by kind of operation."""

    tokens: int
    decodes: int
    drawn: int
    seconds: float
    parts: dict[str, float]

    @property
    def kind(self) -> str:
        return "decode" if self.decodes == self.tokens else "prompts"


def profile_batch(
    raw: architectures.Raw, batch: int, prompt: int, output: int, repeats: int
) -> dict[str, Any]:
    """Of a batch of equal lengths: by kind of step how many there were, and the quickest ones'
    tokens, seconds and parts; `host_s`: seconds outside steps, for each step."""
    watch, steps, outside = Stopwatch(), [], []
    with watched(watch), config_file(raw) as path:
        limits = {"max_batch_size": batch, "max_model_len": prompt + output}
        config = EngineConfig(device="cpu", dtype="bfloat16", **limits)
        engine = Engine(path, config=config, random_weights=True)
        _note_steps(engine, watch, steps)
        rng = np.random.default_rng(0)
        for repeat in range(1 + repeats):
            if repeat == 1:
                steps.clear()  # those of the first run, which warms up
            prompts = rng.integers(0, raw["vocab_size"], (batch, prompt)).tolist()
            outside.append(_run(engine, prompts, output))
    kinds = {kind: [step for step in steps if step.kind == kind] for kind in KINDS_OF_STEP}
    return {
        "batch": batch,
        "prompt": prompt,
        "output": output,
        "host_s": min(outside[1:]),
        **{kind: _quickest(found) for kind, found in kinds.items() if found},
    }


def _note_steps(engine: Engine, watch: Stopwatch, steps: list[Step]) -> None:
    step = watch.timed(REST, engine.runner.step)

    def noting(schedule: Schedule) -> Drawn:
        watch.lap()
        drawn = step(schedule)
        parts = watch.lap()
        tokens = int(schedule.counts.sum())
        sizes = tokens, schedule.num_decodes, int(schedule.samples.sum())
        steps.append(Step(*sizes, sum(parts.values()), parts))
        return drawn

    engine.runner.step = noting


def _run(engine: Engine, prompts: list[list[int]], new_tokens: int) -> float:
    """Seconds outside steps, for each step."""
    before = replace(engine.stats)
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    for _ in engine.generate(prompts, params):
        pass
    now = engine.stats
    outside = (now.seconds - now.step_seconds) - (before.seconds - before.step_seconds)
    return outside / (now.steps - before.steps)


def _quickest(steps: list[Step]) -> dict[str, Any]:
    """Means over the quickest steps among those of the commonest size, the largest of several."""
    sizes = [(step.tokens, step.drawn) for step in steps]
    common = max(set(sizes), key=lambda size: (sizes.count(size), size))
    alike = sorted((s for s in steps if (s.tokens, s.drawn) == common), key=lambda s: s.seconds)
    best = alike[: max(1, int(QUICKEST * len(alike)))]
    kinds = sorted({kind for step in best for kind in step.parts})
    return {
        "steps": len(alike),
        "tokens": common[0],
        "drawn": common[1],
        "step_s": float(np.mean([step.seconds for step in best])),
        "all_steps_s": [step.seconds for step in alike],
        "parts": {k: float(np.mean([s.parts.get(k, 0.0) for s in best])) for k in kinds},
    }


def add_floors(profiles: list[dict[str, Any]], dims: Dims, threads: int) -> dict[str, Any]:
    """The matrix products alone, by number of rows; each kind of step gets its own, and what
    remains above it."""
    found = [p[kind] for p in profiles for kind in KINDS_OF_STEP if kind in p]
    rows = sorted({step[key] for step in found for key in ("tokens", "drawn")} - {0})
    measured = gemm.Peer({"threads": threads, "dims": asdict(dims)}).measure(rows)
    for step in found:
        body = measured[str(step["tokens"])]["body_s"]
        head = measured[str(step["drawn"])]["head_s"] if step["drawn"] else 0.0
        step["gemm_floor_s"] = body + head
        step["above_floor_s"] = step["step_s"] - step["gemm_floor_s"]
    return measured


def print_table(profiles: list[dict[str, Any]], console: Console) -> None:
    """Milliseconds of a step by kind of operation."""
    columns = [(p, kind) for p in profiles for kind in KINDS_OF_STEP if kind in p]
    table = Table(title="milliseconds of a step", box=box.SIMPLE)
    table.add_column("kind of step\nbatch size", no_wrap=True)
    for profile, kind in columns:
        table.add_column(f"{kind}\n{profile['batch']}", justify="right")
    names: Counter[str] = Counter()
    for profile, kind in columns:
        names.update(profile[kind]["parts"])

    def row(name: str, values: list[float]) -> None:
        table.add_row(name, *(f"{1e3 * value:.2f}" for value in values))

    table.add_row("tokens", *(str(p[kind]["tokens"]) for p, kind in columns))
    for name, _ in names.most_common():
        row(name, [p[kind]["parts"].get(name, 0.0) for p, kind in columns])
    table.add_section()
    row("step", [p[kind]["step_s"] for p, kind in columns])
    row("host, outside steps", [p["host_s"] for p, kind in columns])
    row("products alone, by torch", [p[kind]["gemm_floor_s"] for p, kind in columns])
    row("above them", [p[kind]["above_floor_s"] for p, kind in columns])
    console.print(table, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile_cpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--model", choices=MODELS, default="lfm2-350m")
    parser.add_argument("--batches", default="1,8,32", help="default: %(default)s")
    parser.add_argument("--prompt", type=int, default=64, help="tokens (default: %(default)s)")
    parser.add_argument("--output", type=int, default=32, help="new tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    dims = MODELS[options.model]
    raw, profiles = architectures.lfm2(dims), []
    for batch in map(int, options.batches.split(",")):
        sizes = batch, options.prompt, options.output
        profiles.append(profile_batch(raw, *sizes, options.repeats))
    measured = add_floors(profiles, dims, options.threads)
    print_table(profiles, Console())
    if options.json:
        result = {
            "bench": "profile_cpu",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "load_average": os.getloadavg()[0],
            "versions": machine.versions(),
            **machine.commit(),
            "threads": options.threads,
            "dims": asdict(dims),
            "profiles": profiles,
            "gemm": measured,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
