"""From a model directory to a model with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hala_engine.errors import InputError
from hala_engine.layers.linear import Linear
from hala_engine.models.cohere2 import Cohere2, Cohere2Config
from hala_engine.models.gemma2 import Gemma2, Gemma2Config
from hala_engine.models.lfm2 import Lfm2, Lfm2Config
from hala_engine.models.qwen2 import Qwen2, Qwen2Config
from hala_engine.weights.checkpoint import Checkpoint
from hala_engine.weights.directory import read_json
from hala_engine.weights.formats import expected_tensors, read_schemes
from hala_engine.weights.loading import Weights
from hala_engine.weights.quantization import Schemes
from hala_engine.weights.random_source import ImaginedHeaders, RandomSource
from hala_engine.weights.source import CheckpointSource, Layout, Placement

ARCHITECTURES: dict[str, tuple[Callable[[dict], object], type[nn.Module]]] = {
    "cohere2": (Cohere2Config.from_hf, Cohere2),
    "gemma2": (Gemma2Config.from_hf, Gemma2),
    "lfm2": (Lfm2Config.from_hf, Lfm2),
    "llama": (Qwen2Config.from_llama, Qwen2),
    "qwen2": (Qwen2Config.from_qwen2, Qwen2),
}
"""model_type -> how its config.json is read, and the model."""


class ModelLayout(NamedTuple):
    """What an architecture consists of: its tensors, the names of its linear modules (without
    ".weight"), and the model itself without data."""

    layout: Layout
    linear_modules: tuple[str, ...]
    model: nn.Module

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return self.layout.tensors


def model_layout(raw: dict, where: str | Path) -> ModelLayout:
    """The layout that `raw`, the config.json found at `where`, asks for. Raises InputError."""
    layout = Layout()
    weights = Weights(layout, Placement(torch.float32, torch.device("meta")))
    model = _build(raw, where, weights)
    names = [name for m in model.modules() if isinstance(m, Linear) for name in m.names]
    return ModelLayout(layout, tuple(names), model)


class CheckedModel(NamedTuple):
    """A model directory whose headers agree with its config.json."""

    raw: dict
    parts: ModelLayout
    checkpoint: Checkpoint
    schemes: Schemes


def check_model(directory: Path) -> CheckedModel:
    """Reads config.json and the weights' headers. Raises InputError, naming tensor and file."""
    where = directory / "config.json"
    raw = read_json(where)
    parts = model_layout(raw, where)
    checkpoint = Checkpoint(directory)
    schemes = read_schemes(raw, where, parts.linear_modules, checkpoint)
    ignored = frozenset({"lm_head.weight"} if parts.model.config.tied else ())
    checkpoint.check(expected_tensors(parts.layout, schemes), ignored)
    return CheckedModel(raw, parts, checkpoint, schemes)


def load_model(directory: Path, place: Placement) -> nn.Module:
    """The model of `directory`, read one tensor at a time once its headers have been checked.
    Raises InputError, naming tensor and file."""
    raw, _, checkpoint, schemes = check_model(directory)
    weights = Weights(CheckpointSource(checkpoint), place, schemes)
    model = _build(raw, directory / "config.json", weights)
    return model.eval()


def random_model(raw: dict, where: str | Path, place: Placement, seed: int) -> nn.Module:
    """The model that `raw`, the config.json found at `where`, asks for, with random weights, FP8
    ones by its quantization_config. Raises InputError."""
    parts = model_layout(raw, where)
    headers = ImaginedHeaders.of(raw, parts.tensors, parts.linear_modules)
    schemes = read_schemes(raw, where, parts.linear_modules, headers)
    weights = Weights(RandomSource(place, schemes, seed), place, schemes)
    return _build(raw, where, weights).eval()


def _build(raw: dict, where: str | Path, weights: Weights) -> nn.Module:
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{where}: model_type {kind!r} is not supported "
            f"(supported: {', '.join(sorted(ARCHITECTURES))})"
        )
    read, model_class = ARCHITECTURES[kind]
    try:
        config = read(raw)
    except KeyError as error:
        raise InputError(f"{where} lacks {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{where} has a value that cannot be read: {error}") from None
    return model_class(weights, config)
