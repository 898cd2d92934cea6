"""`hala-slerp`: flags or a merge file to a request, a bar on stderr, a summary on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hala_tools.slerp.errors import InputError, MergeError

if TYPE_CHECKING:
    from hala_tools.slerp.report import Report

FAILED, BAD_INPUT = 1, 2
EXAMPLE = (
    "Example: hala-slerp LiquidAI/LFM2-1.2B runs/hala-1.2b/final hala-1.2b-merged "
    "--t 0.5 --t-filter self_attn=0,0.5,1"
)
_LINE_EVERY = 60.0  # seconds between lines where stderr is no terminal
_REFRESH_EVERY = 0.1

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class TokenizerSource(StrEnum):
    base = "base"
    tuned = "tuned"


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Parity(StrEnum):
    strict = "strict"
    mergekit = "mergekit"


class Stopped(BaseException):
    """Raised by a signal, wherever the process is. `outcome`: what the user is left with."""

    outcome = "nothing was written"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hala-slerp {version('hala-engine')}")
        raise typer.Exit


@app.command(epilog=EXAMPLE)
def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE TUNED OUT",
            help="Local Hugging Face directories or hub ids (ID@REVISION for a revision), and the "
            "directory to make, which must not exist. With --config: OUT alone.",
        ),
    ],
    t: Annotated[
        str | None,
        typer.Option(
            metavar="T[,T...]",
            help="0 gives the base, 1 the tuned model, beyond extrapolates. Several values are a "
            "gradient from the first layer to the last; embeddings, final norm and output "
            "projection take the first.  [default: 0.5]",
        ),
    ] = None,
    t_filter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=T[,T...]",
            help="t of the tensors whose name contains NAME, such as self_attn=0,0.5,1; may be "
            "repeated, the first that matches decides.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yml", help="A MergeKit file of merge_method slerp."),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Of the result; by default that of the models, float32 if they differ."),
    ] = None,
    tokenizer_source: Annotated[
        TokenizerSource | None,
        typer.Option(
            help="Whose tokenizer and vocabulary the result has; by default the base's. Given, "
            "rows of embedding and output projection are matched by token: one that the other "
            "model lacks is merged with itself, one that only the other has is dropped."
        ),
    ] = None,
    parity: Annotated[
        Parity,
        typer.Option(
            help="mergekit: as MergeKit merges what we merge otherwise: tensors of zeros, "
            "sources rounded to a merge file's dtype first, padding rows of a vocabulary cut."
        ),
    ] = Parity.strict,
    shard_size: Annotated[
        int, typer.Option(metavar="BYTES", min=1, help="Most bytes of a file of weights.")
    ] = 5_000_000_000,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write every tensor's cosine and t here, and a plot by layer to FILE.svg.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> int:
    """Merge BASE and TUNED by spherical linear interpolation into OUT.

    Weights are streamed: memory does not grow with the models. OUT is a Hugging Face directory with
    config, tokenizer and model card; it appears complete or not at all.

    Exit codes: 0 done; 1 failed; 2 bad input; 130, 143 stopped by a signal.
    """
    from hala_tools.slerp.job import merge, prepare
    from hala_tools.slerp.plot import check_matplotlib

    request, out = _request(paths, t, t_filter or [], config)
    request = replace(
        request,
        dtype=dtype.value if dtype else request.dtype,
        tokenizer_source=tokenizer_source.value if tokenizer_source else request.tokenizer_source,
        parity=parity is Parity.mergekit,
        shard_bytes=shard_size,
    )
    if report is not None:
        _check_report(report, out)
        check_matplotlib()
    job = prepare(request, out)
    for warning in job.warnings:
        _say(f"warning: {warning}")
    try:
        with _progress(job.plan.bytes) as progress:
            result = merge(job, out, progress)
        if report is not None:
            try:
                _write_report(report, result)
            except OSError as error:
                raise MergeError(f"{report}: {error.strerror}; {out} is complete") from error
    except Stopped as stopped:
        if out.exists():
            stopped.outcome = f"{out} is complete"
        raise
    for line in result.lines():
        print(_printable(line))
    return 0


def _write_report(path: Path, report: Report) -> None:
    """As JSON, and as a plot beside it."""
    from hala_tools.slerp.plot import draw

    text = json.dumps(report.to_dict(), indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    draw(report, path.with_suffix(".svg"))


def _request(paths: list[str], t: str | None, filters: list[str], config: Path | None):
    """What is asked for, and where it goes."""
    from hala_tools.slerp.merge_file import read_merge_file
    from hala_tools.slerp.merge_flags import parse_factor
    from hala_tools.slerp.request import Request

    if config is not None:
        if len(paths) != 1:
            raise InputError(f"with --config only OUT is given, not {' '.join(paths)}")
        if t is not None or filters:
            raise InputError("--t and --t-filter go without --config, whose file sets t")
        return read_merge_file(config), Path(paths[0])
    if len(paths) != 3:
        raise InputError(
            f"{len(paths)} of the three arguments BASE TUNED OUT are given: {' '.join(paths)}"
            if len(paths) < 3
            else f"three arguments are taken, BASE TUNED OUT, not {' '.join(paths)}"
        )
    base, tuned, out = paths
    return Request(base, tuned, parse_factor("0.5" if t is None else t, filters)), Path(out)


def _check_report(report: Path, out: Path) -> None:
    if report.suffix != ".json":
        raise InputError(f"--report {report}: give a name that ends in .json")
    if report.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--report {report} lies in {out}, which is made only at the end")
    if not report.parent.is_dir():
        raise InputError(f"--report {report}: there is no directory {report.parent}")
    for path in (report, report.with_suffix(".svg")):
        if path.is_dir():
            raise InputError(f"--report {report}: {path} is a directory; give another name")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"--report {report}: no permission to write {path}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function to tell of written bytes: to stderr a bar on a terminal, else a line a minute."""
    if not sys.stderr.isatty():
        yield _log_lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    # A bar that refreshed itself would have a thread, and the merge forks.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=total)
        last = 0.0

        def advance(count: int) -> None:
            nonlocal last
            bar.advance(task, count)
            if time.monotonic() - last > _REFRESH_EVERY:
                last = time.monotonic()
                bar.refresh()

        yield advance


def _log_lines(total: int) -> Callable[[int], None]:
    begin = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY:
            last = now
            print(
                f"{done / 1e9:,.2f}/{total / 1e9:,.2f} GB ({done / total:.0%}), "
                f"{done / 1e6 / (now - begin):,.0f} MB/s",
                file=sys.stderr,
                flush=True,
            )

    return advance


def run() -> int:
    """Run the command; returns the exit code. Errors become one line on stderr."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who called
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _stop)
    try:
        return app(prog_name="hala-slerp", standalone_mode=False) or 0
    except Stopped as stopped:
        name = signal.Signals(stopped.args[0]).name
        return _fail(128 + stopped.args[0], f"stopped by {name}; {stopped.outcome}")
    except typer.Abort:
        return _fail(FAILED, "aborted")
    except InputError as error:
        return _fail(BAD_INPUT, f"error: {error}")
    except (MergeError, OSError) as error:
        return _fail(FAILED, f"error: {error}")
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, as typer's parser found it
            return _fail(BAD_INPUT, f"error: {error.format_message()} (see hala-slerp --help)")
        text = f"internal error: {type(error).__name__}: {error} (--debug shows the traceback)"
        return _fail(FAILED, text)


def _stop(signum: int, _frame: object) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)  # a second one kills at once
    raise Stopped(signum)


def _fail(code: int, message: str) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    _say(message)
    return code


def _say(message: str) -> None:
    """One line to stderr."""
    print(f"hala-slerp: {_printable(' '.join(message.split()))}", file=sys.stderr)


def _printable(text: str) -> str:
    """What would command the terminal, or cannot be encoded, as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def main() -> None:
    """The entry point of the command line."""
    sys.exit(run())
