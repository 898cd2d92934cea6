"""From a model directory to a model with its weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hala_engine.errors import InputError
from hala_engine.layers.linear import Linear, Placement
from hala_engine.models.lfm2 import Lfm2, Lfm2Config
from hala_engine.weights.checkpoint import Checkpoint, load_weights, read_json

ARCHITECTURES = {"lfm2": (Lfm2Config, Lfm2)}


def read_config(directory: Path) -> tuple[type[nn.Module], object]:
    """The model class and configuration that config.json asks for."""
    raw = read_json(directory / "config.json")
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{directory / 'config.json'}: model_type {kind!r} is not supported "
            f"(supported: {', '.join(sorted(ARCHITECTURES))})"
        )
    if raw.get("quantization_config"):
        raise InputError(
            f"{directory / 'config.json'}: quantized checkpoints are not supported yet; "
            "use the bf16 checkpoint"
        )
    config_class, model_class = ARCHITECTURES[kind]
    try:
        return model_class, config_class.from_hf(raw)
    except KeyError as error:
        raise InputError(f"{directory / 'config.json'} lacks {error}") from None


def load_model(directory: Path, place: Placement) -> nn.Module:
    """Build the architecture and fill it, one tensor at a time. Raises InputError."""
    model_class, config = read_config(directory)
    checkpoint = Checkpoint(directory)
    model = model_class(config, place)
    load_weights(model.checkpoint_tensors(), checkpoint, ignored={"lm_head.weight"})
    for module in model.modules():
        # A tied output matrix is also the embedding, which is read by row.
        if isinstance(module, Linear) and not (config.tied and module is model.head):
            module.pack()
    return model.eval()
