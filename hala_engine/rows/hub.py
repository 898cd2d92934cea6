"""Datasets of the hub: what `datasets` downloads and keeps in its cache as Arrow files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hala_engine.errors import InputError

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB = "hf://"

_FORM = f"{HUB}owner/name[/configuration][:split]"
_ADDRESS = re.compile(
    rf"{HUB}(?P<name>[\w.-]+/[\w.-]+)(/(?P<configuration>[^/:\[\]]+))?(:(?P<split>\w+(\.\w+)*))?"
)
_LONGEST_REASON = 400


def hub_files(address: str) -> list[Path]:
    """The Arrow files of one split, downloaded if need be. Raises InputError."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address}: want {_FORM}; for the first rows of a split use --limit")
    splits = _load(address, match["name"], match["configuration"])
    split = match["split"]
    if split is None and len(splits) == 1:
        [split] = splits
    if split not in splits:
        whole = address.removesuffix(f":{split}")
        raise InputError(
            f"{address}: has the splits {', '.join(splits)}; give one, such as "
            f"{whole}:{next(iter(splits))}"
        )
    return [Path(file["filename"]) for file in splits[split].cache_files]


def _load(address: str, name: str, configuration: str | None) -> "DatasetDict":
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError(f"{address}: needs `datasets`; pip install datasets") from None
    # The class of the http client that the hub's own client uses, whichever that is.
    from huggingface_hub.errors import HTTPError

    faults = (datasets.exceptions.DatasetsError, HTTPError, OSError, ValueError, RuntimeError)
    # The long form of the name never means a folder here, nor a copy of the data in memory.
    long_name = f"{HUB}datasets/{name}"
    try:
        return datasets.load_dataset(long_name, configuration, keep_in_memory=False)
    except faults as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())[:_LONGEST_REASON]
        raise InputError(
            f"{address}: cannot be loaded ({reason or type(error).__name__}); check the name and "
            "the network; for private or gated data log in with `hf auth login`"
        ) from None
