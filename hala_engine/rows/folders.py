"""The files of a folder that hold rows: of any tree, of a dataset that `datasets` saved, and of the
output of a job.
"""

import json
from pathlib import Path
from typing import Any

from hala_engine.errors import InputError
from hala_engine.rows.kinds import kind_of

# What `save_to_disk` writes beside the data.
_SPLITS, _STATE = "dataset_dict.json", "state.json"
# What describes a dataset, in the cache of `datasets` and in old repositories.
_INFO = ("dataset_info.json", "dataset_infos.json")
# What a job leaves beside the folders with its rows: the first from its start, the rest at its end.
_PROGRESS, _DESCRIPTIONS = ".progress", ("manifest.json", "failures.jsonl")


def data_files(folder: Path) -> list[Path]:
    """In the order of their names, folder by folder; of a saved dataset in its own order.

    Hidden files and folders are passed over. Raises InputError for a saved dataset that has several
    splits or lacks files.
    """
    if (folder / _SPLITS).is_file():
        return data_files(_only_split(folder))
    if (folder / _STATE).is_file() and (folder / _INFO[0]).is_file():
        return _saved_files(folder)
    aside = (*_INFO, *_DESCRIPTIONS) if _is_output(folder) else _INFO
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in aside:
            continue
        if not path.is_dir():
            found += [path] if kind_of(path) else []
        elif not folder.resolve().is_relative_to(path.resolve()):  # a link back would never end
            found += data_files(path)
    return found


def _is_output(folder: Path) -> bool:
    return (folder / _PROGRESS).is_dir() or all((folder / n).is_file() for n in _DESCRIPTIONS)


def _only_split(folder: Path) -> Path:
    splits = _field(folder / _SPLITS, "splits")
    if len(splits) != 1:
        raise InputError(
            f"{folder}: has the splits {', '.join(splits)}; give one of them, {folder / splits[0]}"
            if splits
            else f"{folder}: has no splits"
        )
    return folder / splits[0]


def _saved_files(folder: Path) -> list[Path]:
    files = [folder / file["filename"] for file in _field(folder / _STATE, "_data_files")]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: missing, though {_STATE} beside it names it; save it again")
    return files


def _field(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_bytes())[name]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; save the dataset again") from None
