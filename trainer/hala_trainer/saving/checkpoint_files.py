"""A checkpoint on the disk: how it comes to be, appears, is found whole, and goes.

step-N/ holds DCP's files (N_0.distcp of each rank, .metadata) and trainer.json; tmp-* is unfinished
business. Everything here but `Writer` is for rank 0 alone.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

from hala_trainer.errors import InputError

SCALARS = "trainer.json"
MODEL = "model."  # before the names of parameters


class Writer(dcp.FileSystemWriter):
    """DCP's own, whose failures name their cause. torch.save hides the disk's answer behind a
    complaint that its archive is not whole."""

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Any:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def steps_saved(root: Path) -> list[int]:
    """The steps of the whole checkpoints under `root`, oldest first."""
    names = [path.name.removeprefix("step-") for path in root.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def remove_leftovers(root: Path) -> None:
    """Make `root`, and remove what a killed run left in it."""
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob("tmp-*"):
        shutil.rmtree(path)


def begin(folder: Path, ranks: str, scalars: Mapping[str, Any]) -> None:
    """A new folder to be written to, with trainer.json in it."""
    folder.mkdir()
    with (folder / SCALARS).open("w", encoding="utf-8") as file:
        json.dump({"ranks": ranks, "scalars": scalars}, file)
        file.flush()
        os.fsync(file.fileno())


def appear(folder: Path, step: int, keep: int) -> None:
    """What was written becomes step-N, and the oldest above `keep` go."""
    root = folder.parent
    sync(folder)
    folder.rename(root / f"step-{step}")
    sync(root)
    for old in steps_saved(root)[:-keep]:
        # Renamed first: a kill midway must not leave a half checkpoint under the name of a whole.
        shutil.rmtree((root / f"step-{old}").rename(root / f"tmp-old-{old}"))


def sync(folder: Path) -> None:
    """Have the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_scalars(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], remedy: str
) -> tuple[str, dict[str, Any]]:
    """The ranks and the scalars of a checkpoint, once it is found to be whole and of parameters of
    `shapes`. Raises InputError, which `remedy` ends for a damaged one."""
    at = SCALARS
    try:
        saved = json.loads((folder / at).read_text(encoding="utf-8"))
        ranks, scalars = saved["ranks"], saved["scalars"]
        at = ".metadata"
        metadata = dcp.FileSystemReader(folder).read_metadata()
        for place in metadata.storage_data.values():
            at = place.relative_path
            if (folder / at).stat().st_size < place.offset + place.length:
                raise EOFError
    except FileNotFoundError:
        raise InputError(f"{folder} is damaged ({at} is missing); {remedy}") from None
    except EOFError:
        raise InputError(f"{folder} is damaged ({at} is cut off); {remedy}") from None
    except Exception:  # a damaged pickle can raise anything
        raise InputError(f"{folder} is damaged ({at} cannot be read); {remedy}") from None
    held = {
        name.removeprefix(MODEL): tuple(entry.size)
        for name, entry in metadata.state_dict_metadata.items()
        if name.startswith(MODEL)
    }
    for name in sorted(held.keys() | shapes.keys()):
        if held.get(name) != shapes.get(name):
            raise InputError(
                f"{folder} is of another model: {name} is {_shape(held.get(name))} there and "
                f"{_shape(shapes.get(name))} here; set model.path back, or choose another train.out"
            )
    return ranks, scalars


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
