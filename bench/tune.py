"""`python -m bench.tune [TABLE ...] --out DIR`: find launch configurations on this GPU.

For each shape of a kernel's `SPACES` (in bench/kernels/bench_*.py) every candidate is compiled
ahead, on all cores, then run, compared with what the present configuration computes, and timed.
The fastest becomes an entry of DIR/<table>/<device>.json, before the entries that the device has
now. Copy that folder over kernels/hala_kernels/configs/ and run the compile gate and the tests.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench import machine
from bench.gpu import refuse
from bench.kernels.problem import OURS, Space
from bench.kernels.timing import time_on_gpu
from hala_kernels import tuning
from hala_kernels.backend import Device, device_of, forced, launching_with

KERNELS = Path(__file__).parent / "kernels"
MARGIN = 0.02
"""A candidate must be this much faster than the present configuration to replace it."""

console = Console(width=None if sys.stdout.isatty() else 160)


def spaces() -> dict[str, tuple[str, int, Space]]:
    """Table -> (module, its index there, the space)."""
    found = {}
    for path in sorted(KERNELS.glob("bench_*.py")):
        module = f"bench.kernels.{path.stem}"
        for i, space in enumerate(getattr(import_module(module), "SPACES", [])):
            found[space.table] = (module, i, space)
    return found


@dataclass(frozen=True)
class Candidate:
    """What a worker process needs in order to compile one candidate."""

    module: str
    space: int
    shape: tuple[tuple[str, int], ...]
    config: tuple[tuple[str, Any], ...]


def compile_ahead(candidate: Candidate, device: Device) -> tuple[Candidate, str | None]:
    """Compile into Triton's cache on disk; why not, if it does not compile or spills."""
    from hala_kernels.compile.chips import CHIPS, pretending
    from hala_kernels.compile.resources import measure

    space = import_module(candidate.module).SPACES[candidate.space]
    problem = space.problem(dict(candidate.shape))
    compiled = []

    def compile_only(kernel, grid, *args, **options) -> None:
        compiled.append(kernel.run(*args, grid=grid, warmup=True, **options))

    chip = CHIPS[device.capability]
    try:
        with (
            pretending(chip, device),
            forced("triton"),
            tuning.forcing(space.table, dict(candidate.config)),
            launching_with(compile_only),
        ):
            problem.contenders[OURS](*problem.make(torch.device("meta")))
    except Exception as error:
        return candidate, f"{type(error).__name__}: {str(error).splitlines()[-1:]}"
    for resources in measure(compiled):
        if resources.spilled:
            return candidate, f"spills {resources.spilled} bytes"
        if resources.shared > chip.shared_limit:
            return candidate, f"{resources.shared} B of shared memory"
    return candidate, None


def main(
    table: Annotated[list[str] | None, typer.Argument(help="Only these; default all.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON files go.")] = Path("tuned"),
    minutes: Annotated[float, typer.Option(help="Stop then; what is found is written.")] = 9.0,
) -> None:
    """Find launch configurations on this GPU and write them as JSON."""
    if not torch.cuda.is_available():
        refuse("no CUDA device here: this tunes for a GPU")
    known = spaces()
    if unknown := set(table or ()) - set(known):
        refuse(f"no space is called {unknown.pop()!r}: one of {', '.join(known)}")
    deadline = time.monotonic() + 60 * minutes
    chosen = {name: known[name] for name in table or known}
    here = torch.device("cuda", torch.cuda.current_device())
    device = device_of(torch.empty(1, device=here))
    usable = _compile_all(chosen, device)
    for name, (_, _, space) in chosen.items():
        entries = list(_tune(space, usable[name], here, deadline))
        if entries:
            _write(out, space, device, entries)


def _compile_all(
    chosen: dict[str, tuple[str, int, Space]], device: Device
) -> dict[str, set[Candidate]]:
    todo: dict[Candidate, str] = {}
    for name, (module, i, space) in chosen.items():
        for shape in space.shapes:
            for config in space.candidates(shape):
                todo[_candidate(module, i, shape, config)] = name
    began, usable = time.monotonic(), {name: set() for name in chosen}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for candidate, fault in pool.map(compile_ahead, todo, [device] * len(todo), chunksize=4):
            if fault is None:
                usable[todo[candidate]].add(candidate)
    kept = sum(map(len, usable.values()))
    console.print(f"{kept} of {len(todo)} candidates compiled in {time.monotonic() - began:.0f} s")
    return usable


def _candidate(module: str, i: int, shape: dict[str, int], config: tuning.Config) -> Candidate:
    return Candidate(module, i, tuple(shape.items()), tuple(config.items()))


def _tune(
    space: Space, usable: set[Candidate], device: torch.device, deadline: float
) -> Iterator[dict[str, Any]]:
    """An entry for each shape where a candidate beats what the device takes now."""
    for shape in space.shapes:
        if time.monotonic() > deadline:
            console.print(f"{space.table}: out of time before {shape}")
            return
        problem = space.problem(shape)
        run = problem.contenders[OURS]
        arguments = problem.make(device)
        want = _values(run(*arguments))
        present = time_on_gpu(run, problem, device).median
        timed: list[tuple[float, tuning.Config]] = []
        for candidate in usable:
            if dict(candidate.shape) != shape:
                continue
            with tuning.forcing(space.table, dict(candidate.config)):
                if not _near(_values(run(*arguments)), want):
                    console.print(f"[red]{space.table} {shape} {dict(candidate.config)}: wrong")
                    continue
                timed.append((time_on_gpu(run, problem, device).median, dict(candidate.config)))
        best_us, best = min(timed, key=lambda pair: pair[0], default=(present, None))
        line = f"{space.table} {shape}: {present:.1f} us now, best {best_us:.1f} us"
        console.print(f"{line} {best}", highlight=False)
        if best is not None and best_us < present * (1 - MARGIN):
            yield {
                "where": {key: shape[key] for key in space.where},
                "up_to": {key: shape[key] for key in space.up_to},
                "config": best,
                "us": round(best_us, 2),
                "before_us": round(present, 2),
            }


def _values(result: object) -> list[torch.Tensor]:
    tensors = result if isinstance(result, tuple) else (result,)
    return [t.double() for t in tensors if isinstance(t, torch.Tensor)]


def _near(got: list[torch.Tensor], want: list[torch.Tensor]) -> bool:
    """Equal but for the order of sums; a NaN is not."""
    return all(
        ((g - w).norm() <= 2e-2 * w.norm()).item() and torch.isfinite(g).all().item()
        for g, w in zip(got, want, strict=True)
    )


def _write(out: Path, space: Space, device: Device, entries: list[dict[str, Any]]) -> None:
    """The new entries, then those that the device is served from today."""
    present = tuning.table_for(space.table, device)
    key = tuning.device_key(device.name)
    content = {
        "kernel": space.table,
        "device": device.name,
        "capability": device.capability,
        "source": f"bench.tune on {device.name}, {datetime.now(UTC):%Y-%m-%d}, commit "
        f"{machine.commit()['commit'][:7]}; the entries without times: {present.source}",
        "entries": entries
        + [{"where": e.where, "up_to": e.up_to, "config": e.config} for e in present.entries],
    }
    path = out / space.table / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
