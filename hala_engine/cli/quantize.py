"""`hala-engine quantize`: flags to a plan, a bar on stderr, the result as tables."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hala_engine.cli import options
from hala_engine.cli.exits import leaves_nothing
from hala_engine.errors import InputError

EXAMPLE = "Example: hala-engine quantize LiquidAI/LFM2-1.2B lfm2-1.2b-fp8 --scheme fp8-dynamic"

_LINE_EVERY = 60.0  # seconds between lines where stderr is no terminal


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Local Hugging Face directory or hub id.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="Directory to make; it must not exist.")
    ],
    scheme: Annotated[
        str,
        typer.Option(
            help="fp8-dynamic: a weight scale per output channel. fp8-block: one per 128 x 128 "
            "block. Activations are quantized at run time, per token or per token and 128 channels."
        ),
    ] = "fp8-dynamic",
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX",
            help="Leave linear layers as they are whose name holds a match anywhere, such as "
            r"'layers\.0\.' or 'down_proj$'; may be repeated. Embeddings, the output projection, "
            "norms and convolution filters always stay.",
        ),
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Afterwards compare both models' predictions on N built-in English lines, in "
            "float32 on the CPU.",
        ),
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write every layer's error here.")
    ] = None,
    revision: options.Revision = None,
    debug: options.Debug = False,
) -> int:
    """Make an FP8 checkpoint of a BF16, FP16 or FP32 one.

    The result is in the compressed-tensors format: this engine, vLLM and transformers load it.
    Errors are relative: ||W - dequantized|| / ||W||.

    Exit codes: 0 done; 1 failed; 2 bad input; 130, 143 stopped by a signal. DST appears complete
    or not at all.
    """
    if report is not None and not report.parent.is_dir():
        raise InputError(f"--report {report}: there is no directory {report.parent}")
    # Here and not above: these bring torch, which --help can do without.
    from rich.console import Console

    from hala_engine.quantize.job import prepare
    from hala_engine.quantize.job import quantize as run
    from hala_engine.quantize.verify import compare, encode_lines
    from hala_engine.weights.directory import resolve_model

    directory = resolve_model(source, revision)
    config, plan = prepare(directory, target, scheme, ignore or ())
    lines = encode_lines(directory, verify) if verify else []
    for warning in plan.warnings:
        print(f"hala-engine: warning: {warning}", file=sys.stderr)
    with leaves_nothing(), _progress(plan.source_bytes) as progress:
        result = run(directory, target, config, plan, progress)
    out = Console()
    for part in result.tables():
        out.print(part, highlight=False, soft_wrap=isinstance(part, str))
    _write_report(report, result.to_dict())
    if lines:
        comparison = compare(directory, target, lines)
        out.print(f"verify: {comparison}", highlight=False, soft_wrap=True)
        _write_report(report, result.to_dict() | {"verify": comparison.to_dict()})
    return 0


def _write_report(path: Path | None, values: dict) -> None:
    if path is not None:
        path.write_text(json.dumps(values, indent=1) + "\n")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell of done bytes: to stderr a bar on a terminal, else a line a minute."""
    if not sys.stderr.isatty():
        yield _log_lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _log_lines(total: int) -> Callable[[int], None]:
    begin = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY or done == total:
            last = now
            speed = done / max(now - begin, 1e-9)
            print(
                f"{done / 1e9:,.2f}/{total / 1e9:,.2f} GB ({done / total:.0%}), "
                f"{speed / 1e6:,.0f} MB/s",
                file=sys.stderr,
                flush=True,
            )

    return advance
