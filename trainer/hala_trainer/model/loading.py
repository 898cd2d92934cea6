"""From a Hugging Face directory to a sharded model, without ever holding a whole one.

The modules are made with parameters on the meta device, sharded there, and each process then reads
its own rows of each tensor from the memory-mapped files: a checkpoint larger than one GPU, or than
a machine's memory, loads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hala_engine.weights.checkpoint import Checkpoint
from hala_engine.weights.directory import resolve_model
from hala_trainer.config import ModelConfig
from hala_trainer.errors import InputError
from hala_trainer.model import attention
from hala_trainer.model.packed import ARCHITECTURES, PackedModel


def find_model(config: ModelConfig) -> Path:
    """The directory that `model.path` names, from the hub if it must be."""
    path = resolve_model(config.path, config.revision or None)
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json in it; is it a model directory?")
    return path


def load_tokenizer(path: Path):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # the libraries raise whatever the damage led to
        raise InputError(f"{path}: no usable tokenizer ({_first_line(error)})") from None
    if not tokenizer.is_fast:
        raise InputError(f"{path}: its tokenizer has no tokenizer.json, which training needs")
    return tokenizer


def load_config(path: Path):
    """The model's configuration. Raises InputError unless it can be trained."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:
        raise InputError(f"{path}: unusable config.json ({_first_line(error)})") from None
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"{path}: {config.model_type} models are not supported; {', '.join(ARCHITECTURES)} are"
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{path}: its weights are quantized, which cannot be trained; take the bfloat16 "
            "checkpoint it was made from"
        )
    return config


def check_vocabulary(path: Path, tokenizer, config) -> None:
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, but the model's vocabulary only "
            f"{config.vocab_size}; they do not belong together"
        )


def build(config, compute: str) -> PackedModel:
    """The model of `config` with float32 parameters on the meta device, and real buffers."""
    with _parameters_on_meta():
        model = _from_config(config)
    return PackedModel(model, getattr(torch, compute))


def fill(model: PackedModel, path: Path, model_config: ModelConfig, device: torch.device) -> None:
    """Give the parameters of a `build`-made, sharded or whole `model` their values on `device`.

    With init = "random" the values depend on the seed alone, not on the number of processes; the
    whole model is then made in the memory of each.
    """
    random = model_config.init == "random"
    source = _RandomWeights(model, model_config.seed) if random else _FileWeights(model, path)
    model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if isinstance(parameter, DTensor):
                start, local = own_rows(parameter)
            else:
                start, local = 0, parameter
            if local.numel():
                local.copy_(source.rows(name, start, start + len(local)))


def own_rows(parameter: DTensor) -> tuple[int, torch.Tensor]:
    """The first row that this process holds of a tensor sharded along dimension 0, and its rows:
    equal chunks, of which the last ones may be short or empty."""
    mesh, local = parameter.device_mesh, parameter.to_local()
    chunk = -(-parameter.shape[0] // mesh.size())
    return min(mesh.get_local_rank() * chunk, parameter.shape[0]), local


class _FileWeights:
    def __init__(self, model: PackedModel, path: Path) -> None:
        self.checkpoint = Checkpoint(path)
        entries = self.checkpoint.entries
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        for name, shape in shapes.items():
            if name not in entries:
                raise InputError(f"{path}: its weights lack the tensor {name}")
            if entries[name].shape != shape:
                raise InputError(
                    f"{self.checkpoint.where(name)}: tensor {name} has shape "
                    f"{list(entries[name].shape)}, config.json asks for {list(shape)}"
                )
        # A tied output layer may be written out once more.
        for name in entries.keys() - shapes.keys() - {"lm_head.weight"}:
            raise InputError(
                f"{self.checkpoint.where(name)}: tensor {name} does not belong to a "
                f"{model.config.model_type} model of this config.json"
            )

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.checkpoint.read(name, dim=0, part=slice(start, stop))


class _RandomWeights:
    def __init__(self, model: PackedModel, seed: int) -> None:
        torch.manual_seed(seed)
        self.tensors = dict(_from_config(model.config).named_parameters())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensors[name][start:stop]


def _from_config(config) -> nn.Module:
    from transformers import AutoModelForCausalLM

    attention.register()
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention.NAME
    )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made inside get parameters without memory; their buffers are real, since nothing
    would fill those that no checkpoint holds."""
    register = nn.Module.register_parameter

    def register_on_meta(module, name, parameter):
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
