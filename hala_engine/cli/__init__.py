"""`hala-engine`: one file per sub-command, each thin. Nothing heavy is imported before it is used,
so `--help` and mistakes in usage answer at once."""

import sys

import typer

from hala_engine.cli import bench, generate, inspect_model, judge, quantize, translate
from hala_engine.cli.exits import run

app = typer.Typer(
    name="hala-engine",
    help="Turn an English instruction corpus into another language, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hala-engine {version('hala-engine')}")
        raise typer.Exit


@app.callback()
def _global_options(
    _version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    pass


app.command("translate", epilog=translate.EXAMPLE)(translate.translate)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("judge", epilog=judge.EXAMPLE)(judge.judge)
app.command("quantize", epilog=quantize.EXAMPLE)(quantize.quantize)
app.command("inspect", epilog=inspect_model.EXAMPLE)(inspect_model.inspect)
app.command("bench", epilog=bench.EXAMPLE)(bench.bench)


def main() -> None:
    """The entry point of the command line."""
    sys.exit(run(app))
