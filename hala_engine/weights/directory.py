"""A Hugging Face model directory: where it is, its JSON files, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from hala_engine.errors import InputError

SHIPPED_MODEL = "hala-mini-en-ar"
_ASSETS = Path(__file__).parents[1] / "assets"

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def resolve_model(model: str | Path, revision: str | None = None) -> Path:
    """The local directory of `model`: a path as it is, the shipped model by its name, a hub id
    through the hub's cache."""
    path = Path(model)
    if str(model) == SHIPPED_MODEL and not path.exists():
        return _ASSETS / SHIPPED_MODEL
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{model} is a file; --model takes a Hugging Face model directory")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise InputError(f"no model directory at {model}; give a local directory or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{model} is no local directory and could not be had from the hub: {reason}"
        ) from error


def read_json(path: Path) -> dict:
    """A JSON object, or an InputError that says what is wrong with the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}; is it a model directory?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def fingerprint(directory: Path, block: int = 1 << 20) -> str:
    """sha256 over names, sizes and contents of the model's files.

    Of a file past 64 blocks, 64 evenly spaced blocks are read: enough to tell two checkpoints
    apart, and quick at 100 GB.
    """
    digest = hashlib.sha256()
    kinds = (".json", ".safetensors", ".jinja", ".model")
    for path in sorted(p for p in directory.iterdir() if p.suffix in kinds):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        step = max(block, size // 64)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(block))
    return digest.hexdigest()
