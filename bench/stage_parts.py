"""Parts of a stage of `bench.gpu`, each in a process of its own and within its time: one that
fails, or is not reached, costs the others nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent

LEAST_SECONDS = 20
"""A part that would have less is not begun."""

GRACE_S = 15
"""Between a part's own deadline and its end by force."""


def run_parts(
    module: str,
    seconds: dict[str, int],
    out: Path,
    deadline: float,
    console: Console,
    **settings: Any,
) -> dict[str, Any]:
    """`python -m module JOB RESULT` for each part of `seconds`, which holds the most that it takes.
    Their results by name; those with an "error" hold what was measured before it, and "not_reached"
    names those for which no time was left."""
    found: dict[str, Any] = {}
    late: list[str] = []
    stage = module.rpartition(".")[2].removesuffix("_parts")
    for name, most in seconds.items():
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            late.append(name)
            continue
        job = {"part": name, "seconds": min(most, left - GRACE_S), **settings}
        begin = time.monotonic()
        found[name] = run_part(module, job, out / f"{stage}.{name}.log")
        found[name]["wall_s"] = time.monotonic() - begin
        error = found[name].get("error")
        console.print(
            f"{name}: {found[name]['wall_s']:.0f} s" + (f", {error}" if error else ""),
            highlight=False,
        )
    return {"parts": found, "not_reached": late}


def run_part(module: str, job: dict[str, Any], log: Path) -> dict[str, Any]:
    """In a process group of its own, killed when its time is up."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as scratch, log.open("w") as output:
        job_file, result_file = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job_file.write_text(json.dumps(job))
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(job_file), str(result_file)],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = child.wait(job["seconds"] + GRACE_S)
            failure = f"exit {code}: see {log.name}" if code else None
        except subprocess.TimeoutExpired:
            failure = f"not done after {job['seconds'] + GRACE_S:.0f} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        result = _read(result_file)
    if failure:
        result.setdefault("error", failure)
    return result


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}  # killed before, or while, it wrote


def targets_table(
    targets: dict[str, tuple[str, float, str]], summary: dict[str, Any], met: dict[str, bool]
) -> Table:
    """`targets`: figure -> its name, its target and its form; `met`: of those in `summary`."""
    table = Table(title="targets")
    for heading in ("", "measured", "target", ""):
        table.add_column(heading)
    for key, (name, target, form) in targets.items():
        value = form.format(summary[key]) if key in summary else "not measured"
        verdict = {True: "met", False: "not met", None: ""}[met.get(key)]
        table.add_row(name, value, form.format(target), verdict)
    return table
