"""`python -m bench.gpu STAGE --out DIR`: everything that is measured on one GPU, a stage a command.

`check`: the compile gate for this chip, every test of the kernels on the device, small models on
them beside `transformers`, and the error of FP8 accumulation against float64. `kernels`: every
kernel beside its peers and its floor. `engine`: whole jobs beside `transformers` and the roofline,
FP8 beside BF16, a step by batch size, what the device waits for, and the cost of `--deterministic`.
`trainer`: gradients on the device beside the CPU's, then steps of hala-train: MFU, memory beside
its estimate, time by kind of kernel, and a plain loop over `transformers`.
Each stays within `--minutes`; what was not reached is named, not lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench import machine
from bench.kernels import summary

REPOSITORY = Path(__file__).resolve().parent.parent

ENGINE_TESTS = "tests/engine/test_triton_path.py"
"""Of models on the kernels."""

console = Console(width=None if sys.stdout.isatty() else 160)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Out = Annotated[Path, typer.Option(help="Directory for the results.")]
Minutes = Annotated[float, typer.Option(help="Time limit of the stage.")]
Only = Annotated[list[str] | None, typer.Option(help="Only these operations, e.g. fp8_gemm.")]


@app.command()
def check(out: Out, minutes: Minutes = 9.0, only: Only = None) -> None:
    """Are the kernels right on this GPU?"""
    out, deadline = out.resolve(), time.monotonic() + 60 * minutes
    result = _begin("check")
    capability = result["device"]["capability"]
    result["gate"] = _gate(capability, only, out)
    result["tests"] = _tests(only, out, deadline)
    if not only or "fp8_gemm" in only:
        from bench.kernels.accumulation import errors

        result["fp8_accumulation"] = errors(torch.device("cuda"))
        summary.print_accumulation(result["fp8_accumulation"], console)
    _write(out / "check.json", result)
    failed = result["tests"]["failed"] or result["gate"]["faults"]
    for name in result["tests"]["failed"]:
        console.print(f"failed: {name}", highlight=False)
    counts = {k: len(v) if isinstance(v, list) else v for k, v in result["tests"].items()}
    console.print(f"gate: {result['gate']['verdict']}; tests: {counts}", highlight=False)
    raise typer.Exit(1 if failed else 0)


@app.command()
def kernels(out: Out, minutes: Minutes = 9.0, only: Only = None) -> None:
    """How fast are the kernels, beside their peers and the floor?"""
    out, began = out.resolve(), time.monotonic()
    result = _begin("kernels")
    _gate(result["device"]["capability"], only, out)  # fills the compiler's cache, on all cores
    raw = out / "kernels.pytest.json"
    left = 60 * minutes - (time.monotonic() - began)
    command = [sys.executable, "-m", "pytest", *_files("bench/kernels/bench_{}.py", only), "-q"]
    command += ["--timeout=0", "-p", "no:cacheprovider", f"--seconds={left - 20:.0f}"]
    command += [f"--benchmark-json={raw}", "--benchmark-columns=median", "--benchmark-sort=name"]
    log = (out / "kernels.log").open("w")
    code = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log, check=False).returncode
    if not raw.exists():
        refuse(f"no benchmark ended (pytest exit {code}): see {out / 'kernels.log'}")
    result |= summary.collect(json.loads(raw.read_text()))
    raw.unlink()
    _write(out / "kernels.json", result)
    summary.print_kernels(result, console)
    raise typer.Exit(code)


@app.command()
def engine(
    out: Out,
    minutes: Minutes = 9.0,
    only: Annotated[list[str] | None, typer.Option(help="Only these parts, e.g. idle.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
) -> None:
    """How fast is the engine, beside transformers and the roofline?"""
    from bench import engine_gpu

    if unknown := set(only or ()) - set(engine_gpu.PARTS):
        refuse(f"no part is called {unknown.pop()!r}: use {', '.join(engine_gpu.PARTS)}")
    out, deadline = out.resolve(), time.monotonic() + 60 * minutes
    result = _begin("engine", on_cpu=tiny)
    out.mkdir(parents=True, exist_ok=True)
    if not tiny:
        _gate(result["device"]["capability"], None, out)  # fills the compiler's cache
    device = "cpu" if tiny else "cuda"
    result |= engine_gpu.measure(out, deadline, console, device=device, tiny=tiny, only=only)
    result["summary"] = engine_gpu.summarize(result["parts"])
    result["targets_met"] = engine_gpu.verdicts(result["summary"])
    _write(out / "engine.json", result)
    engine_gpu.print_tables(result, console)
    failed = any("error" in part for part in result["parts"].values())
    raise typer.Exit(1 if failed or result["not_reached"] else 0)


@app.command()
def trainer(
    out: Out,
    minutes: Minutes = 9.0,
    only: Annotated[list[str] | None, typer.Option(help="Only these parts, e.g. check.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
) -> None:
    """Is training right on this GPU, and how near its peak?"""
    from bench import trainer_gpu

    if unknown := set(only or ()) - set(trainer_gpu.PARTS):
        refuse(f"no part is called {unknown.pop()!r}: use {', '.join(trainer_gpu.PARTS)}")
    out, deadline = out.resolve(), time.monotonic() + 60 * minutes
    result = _begin("trainer", on_cpu=tiny)
    out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if tiny else "cuda"
    result |= trainer_gpu.measure(out, deadline, console, device=device, tiny=tiny, only=only)
    result["summary"] = trainer_gpu.summarize(result["parts"])
    result["targets_met"] = trainer_gpu.verdicts(result["summary"])
    _write(out / "trainer.json", result)
    trainer_gpu.print_tables(result, console)
    failed = any("error" in part for part in result["parts"].values())
    wrong = not result["summary"].get("gradients_ok", True)
    raise typer.Exit(1 if failed or wrong or result["not_reached"] else 0)


def _begin(stage: str, on_cpu: bool = False) -> dict[str, Any]:
    """on_cpu: a miniature of the stage, which exercises its code."""
    facts = {
        "stage": stage,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        **machine.commit(),
        "versions": machine.versions(),
    }
    return facts | {"device": machine.cpu() if on_cpu else _gpu()}


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        refuse("no CUDA device here: this measures a GPU")
    properties = torch.cuda.get_device_properties(0)
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "name": properties.name,
        "capability": properties.major * 10 + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def _gate(capability: int, only: list[str] | None, out: Path) -> dict[str, Any]:
    """The compile gate for this chip; its kernels stay in Triton's cache."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hala_kernels.compile", *(only or ())]
    command += ["--arch", str(capability), "--quiet", "--json", str(out / "gate.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    faults = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for line in faults:
        console.print(line, highlight=False)
    return {"faults": faults, "verdict": done.stdout.strip(), "exit": done.returncode}


def _tests(only: list[str] | None, out: Path, deadline: float) -> dict[str, Any]:
    """The tests of the kernels, and of models on them, that passed, failed or were skipped on the
    device."""
    report = out / "tests.xml"
    files = _files("tests/kernels/test_{}.py", only) + ([] if only else [ENGINE_TESTS])
    command = [sys.executable, "-m", "pytest", *files, "-q"]
    command += ["-p", "no:cacheprovider", f"--junit-xml={report}", "--timeout=120"]
    if find_spec("xdist"):  # most of the time is compilation, which wants every core
        command += ["-n", str(os.cpu_count())]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    log = out / "tests.log"
    late = []
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=file,
            # What a script puts in the background ignores interrupts, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as running,
    ):
        try:
            running.wait(max(1.0, deadline - time.monotonic() - 40))
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)  # pytest then reports what it has
            late = [f"not all done in time: see {log}"]
            try:
                running.wait(25)
            except subprocess.TimeoutExpired:
                running.kill()
    if not report.exists():
        return {"passed": 0, "failed": [*late, f"no test ended: see {log}"], "skipped": 0}
    passed, skipped, failed = 0, 0, late
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def _files(pattern: str, only: list[str] | None) -> list[str]:
    if not only:
        return [str(Path(pattern).parent)]
    files = [pattern.format(name) for name in only]
    for name, file in zip(only, files, strict=True):
        if not (REPOSITORY / file).exists():
            refuse(f"no operation is called {name!r}: {file} does not exist")
    return files


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {path}", highlight=False)


def refuse(message: str) -> None:
    """One line, and the exit code of wrong usage."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
