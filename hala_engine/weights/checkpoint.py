"""A Hugging Face model directory: where it is, its JSON files, and its tensors by name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hala_engine.errors import InputError

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
INDEX = "model.safetensors.index.json"


def resolve_model(model: str | Path, revision: str | None = None) -> Path:
    """The local directory of `model`: a path as it is, a hub id through the hub's cache."""
    path = Path(model)
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


class Checkpoint:
    """The tensors of a model directory, memory-mapped; sharded or in one file.

    Raises InputError when there are no weights, or the index names a file that is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if (directory / INDEX).exists():
            index = read_json(directory / INDEX).get("weight_map")
            if not isinstance(index, dict):
                raise InputError(f"{directory / INDEX} has no weight_map")
            self.files = sorted({str(file) for file in index.values()})
        else:
            self.files = sorted(path.name for path in directory.glob("*.safetensors"))
        if not self.files:
            raise InputError(f"{directory} has no weights: no *.safetensors file in it")
        for file in self.files:
            if not (directory / file).exists():
                raise InputError(f"{directory / INDEX} names {file}, which is not there")

    def tensors(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        """(file, tensor name, tensor) for every tensor, on the CPU, one at a time."""
        for file in self.files:
            with ExitStack() as stack:
                try:
                    reader = stack.enter_context(safe_open(self.directory / file, framework="pt"))
                    names = reader.keys()
                except (SafetensorError, OSError) as error:
                    raise InputError(
                        f"{self.directory / file} cannot be read as safetensors "
                        f"({error}); copy or download it again"
                    ) from None
                for name in names:
                    yield file, name, reader.get_tensor(name)


def load_weights(
    targets: dict[str, torch.Tensor], checkpoint: Checkpoint, ignored: set[str]
) -> None:
    """Fill every target from the checkpoint's tensor of its name, converting the dtype.

    `ignored` names tensors that may lie in the file without a target (a tied lm_head). Raises
    InputError naming the tensor and file for a shape that differs, a tensor that is missing and one
    that the architecture does not have.
    """
    missing = set(targets)
    with torch.no_grad():
        for file, name, tensor in checkpoint.tensors():
            target = targets.get(name)
            if target is None:
                if name in ignored:
                    continue
                raise InputError(
                    f"{checkpoint.directory / file}: tensor {name} does not belong to "
                    "this architecture; check model_type and the layer counts in config.json"
                )
            if target.shape != tensor.shape:
                raise InputError(
                    f"{checkpoint.directory / file}: tensor {name} has shape "
                    f"{list(tensor.shape)}, config.json asks for {list(target.shape)}"
                )
            if not tensor.is_floating_point():
                raise InputError(
                    f"{checkpoint.directory / file}: tensor {name} has dtype {tensor.dtype}; "
                    "weights must be float32, float16 or bfloat16"
                )
            target.copy_(tensor)
            missing.discard(name)
    if missing:
        first = min(missing)
        raise InputError(
            f"{checkpoint.directory} lacks the tensor {first}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        )


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
