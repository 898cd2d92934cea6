"""hala-train: fine-tune a model from a TOML recipe."""

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from hala_trainer.config import load_recipe
from hala_trainer.errors import InputError, Stopped, TrainError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

EPILOG = "Example: hala-train trainer/recipes/hala-mini-en-ar.toml optim.lr=1e-3 log.every=50"


@app.command(epilog=EPILOG)
def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", metavar="RECIPE.toml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Values that replace the recipe's.", metavar="[section.key=value]..."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train the model that RECIPE.toml describes.

    Writes checkpoints/, final/ (a Hugging Face directory), metrics.jsonl and config.resolved.toml
    under the recipe's train.out. Run it again to go on from the last checkpoint. Ctrl-C or SIGTERM
    finishes the step, saves, and exits.
    """
    raise SystemExit(run(recipe, overrides or [], debug))


def run(path: Path, overrides: list[str], debug: bool) -> int:
    """Returns the exit code; every failure is one line on stderr."""

    def stop_before_training(signum, _frame):
        raise Stopped(signum)

    signal.signal(signal.SIGTERM, stop_before_training)
    signal.signal(signal.SIGINT, stop_before_training)
    try:
        recipe = load_recipe(path, overrides)
        # Imported late: a bad recipe or --help should not wait for torch.
        from hala_trainer.loop import train
        from hala_trainer.run import set_up

        train(set_up(recipe))
    except Stopped as stopped:
        return stopped.exit_code
    except InputError as error:
        return _failed(error, 2, debug)
    except TrainError as error:
        return _failed(error, 1, debug)
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}", 1, debug)
    return 0


def _failed(error: object, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(str(error).split())
    print(f"hala-train: {line}", file=sys.stderr)
    return code


def main() -> None:
    app(prog_name="hala-train")


if __name__ == "__main__":
    main()
