"""python -m hala_kernels.compile [OPERATION ...]"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from hala_kernels import triton_lang


def main(
    operation: Annotated[list[str] | None, typer.Argument(help="Only these; default all.")] = None,
    arch: Annotated[list[int] | None, typer.Option(help="89, 90 or 100; default all.")] = None,
    processes: Annotated[int, typer.Option(min=0, help="0: one for each core.")] = 0,
    quiet: Annotated[bool, typer.Option(help="Only faults and the last line.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write every figure here.")
    ] = None,
) -> None:
    """Build every kernel in every launch configuration without a GPU, and check what it uses.

    Example: python -m hala_kernels.compile fp8_gemm --arch 90
    """
    if not triton_lang.AVAILABLE:
        _refuse("Triton is not installed: pip install 'triton>=3.6,<3.10' (Linux only)")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        _refuse("TRITON_INTERPRET is set: nothing is compiled under the interpreter. Unset it")
    from hala_kernels.compile.chips import CHIPS
    from hala_kernels.compile.gate import jobs, orphans, run

    if unknown := set(arch or ()) - set(CHIPS):
        _refuse(f"unknown --arch {unknown.pop()}: one of {', '.join(map(str, CHIPS))}")
    if json_path and not json_path.absolute().parent.is_dir():
        _refuse(f"--json {json_path}: there is no such folder")
    try:
        todo = jobs(set(operation or ()), sorted(set(arch or CHIPS)))
    except LookupError as error:
        _refuse(str(error.args[0]))
    began = time.perf_counter()
    report = run(todo, processes or os.cpu_count() or 1)
    if not operation:
        report.faults += orphans()
    if not quiet:
        _print(report.built)
    if json_path:
        json_path.write_text(json.dumps([asdict(b) for b in report.built], indent=1))
    for fault in report.faults:
        print(f"error: {fault}", file=sys.stderr)
    seconds = time.perf_counter() - began
    verdict = f"{len(report.faults)} faults" if report.faults else "no spill, all within limits"
    print(f"{len(report.built)} kernels built in {seconds:.0f} s: {verdict}")
    raise typer.Exit(1 if report.faults else 0)


def _print(built: list) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("chip", "kernel", "case", "configuration"):
        table.add_column(heading, overflow="fold")
    for heading in ("regs", "spilled", "shared", "warps"):
        table.add_column(heading, justify="right")
    table.add_column("tensor cores")
    for b in built:
        config = " ".join(f"{k}={v}" for k, v in b.config.items() if not k.startswith("num_"))
        r = b.resources
        table.add_row(
            f"sm_{b.capability}",
            b.kernel,
            b.case,
            config,
            *map(str, (r.registers, r.spilled, r.shared, r.warps)),
            r.tensor_core,
        )
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
