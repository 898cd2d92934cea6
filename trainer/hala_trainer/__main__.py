"""hala-train: fine-tune a model from a TOML recipe."""

import signal
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from hala_trainer.errors import InputError, ProcessError, Stopped, TrainError
from hala_trainer.recipe import load_recipe

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

EPILOG = "Example: hala-train --nproc 8 trainer/recipes/hala-1.2b.toml optim.lr=1e-5 log.every=50"


@app.command(epilog=EPILOG)
def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", metavar="RECIPE.toml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Values that replace the recipe's.", metavar="[section.key=value]..."),
    ] = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, one a GPU. As torchrun would.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the memory it takes; train not.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train the model that RECIPE.toml describes.

    Writes checkpoints/, final/ (a Hugging Face directory), metrics.jsonl, tensorboard/ and
    config.resolved.toml under the recipe's train.out. Run it again to go on from the last
    checkpoint, with more or fewer processes too. Ctrl-C or SIGTERM finishes the step, saves, and
    exits with 130 or 143.
    """
    raise SystemExit(run(recipe, overrides or [], debug, nproc, dry_run))


def run(
    path: Path, overrides: list[str], debug: bool, nproc: int = 1, dry_run: bool = False
) -> int:
    """Returns the exit code; every failure is one line on stderr."""

    def stop_before_training(signum, _frame):
        for again in (signal.SIGINT, signal.SIGTERM):  # on the way out, from terminal or launcher
            signal.signal(again, signal.SIG_IGN)
        raise Stopped(signum)

    signal.signal(signal.SIGTERM, stop_before_training)
    signal.signal(signal.SIGINT, stop_before_training)
    try:
        recipe = load_recipe(path, overrides)
        recipe.accumulate(nproc)
        # Imported late: a bad recipe or --help should not wait for torch.
        if dry_run:
            from hala_trainer.planning.plan import print_plan

            print_plan(recipe, nproc)
        elif nproc > 1:
            from hala_trainer.launch import launch

            flags = ["--debug"] if debug else []
            return launch(nproc, [*flags, "--", str(path), *overrides])
        else:
            _train(recipe)
    except Stopped as stopped:
        return stopped.exit_code
    except InputError as error:
        return _failed(error, 2, debug)
    except TrainError as error:
        return _failed(error, 1, debug)
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}", 1, debug)
    return 0


def _train(recipe) -> None:
    import torch

    from hala_trainer.distributed import processes
    from hala_trainer.loop import train
    from hala_trainer.run import set_up

    with processes(recipe.train.device) as group:
        try:
            with closing(set_up(recipe, group)) as current:
                train(current)
        except torch.OutOfMemoryError as error:
            raise ProcessError(
                f"out of GPU memory ({str(error).partition('. ')[0]}); lower train.micro_batch, "
                "or set train.recompute to selective or full"
            ) from error


def _failed(error: object, code: int, debug: bool) -> int:
    """What is the same on all processes, the first one says."""
    if debug:
        traceback.print_exc()
    from hala_trainer.distributed import rank

    line = " ".join(str(error).split())
    if rank() == 0:
        print(f"hala-train: {line}", file=sys.stderr)
    elif isinstance(error, ProcessError) or not isinstance(error, (InputError, TrainError)):
        print(f"hala-train, process {rank()}: {line}", file=sys.stderr)
    return code


def main() -> None:
    app(prog_name="hala-train")


if __name__ == "__main__":
    main()
