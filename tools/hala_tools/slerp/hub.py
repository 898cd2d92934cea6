"""Where a model is: a local directory, or a hub id through the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from hala_tools.slerp.errors import InputError

_FILES = [
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.txt",
    "*.tiktoken",
    "*.py",
    "*.md",
    "LICENSE*",
]


def resolve(model: str) -> Path:
    """The local directory of `model`, `ID@REVISION` for a revision of a hub id.

    Raises InputError if there is none.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{model} is a file; give a model directory or a hub id")
    name, _, revision = model.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"no model directory at {model}; give a local directory or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{model} is no local directory and could not be had from the hub: {reason}"
        ) from error
