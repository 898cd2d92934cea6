"""Random FP8 checkpoints of every architecture and, as their oracle, `transformers` on de-quantized
weights with the input of each product rounded as the product rounds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from checkpoints import random_prompts, rewrite_config, write_checkpoint
from fp8_checkpoints import (
    BY_BLOCK,
    GROUPS_OF_128,
    Layout,
    arguments,
    compressed,
    dequantize,
    group,
    quantize,
)
from rounding import E4M3_MAX, through_e4m3
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

BLOCK = 128

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Matrices that are one product."""

DYNAMIC = {
    "token": group(arguments("channel"), arguments("token", dynamic=True), "Linear"),
    "group": group(BY_BLOCK, GROUPS_OF_128, "Linear"),
}


def layout(inputs: str, ignore: tuple[str, ...] = ()) -> Layout:
    """In compressed-tensors: weights by channel and inputs by "token", weights by block and inputs
    by "group", or both by "tensor", with static scales of the inputs."""
    ignore = ["lm_head", *ignore]
    if inputs == "tensor":
        static = group(arguments("tensor"), arguments("tensor"), "Linear")
        return Layout(
            compressed({"group_0": static}, ignore=ignore),
            by="tensor",
            scale="weight_scale",
            shape=(1,),
            input_scale="input_scale",
        )
    config = compressed({"group_0": DYNAMIC[inputs]}, ignore=ignore)
    return Layout(config, by="channel" if inputs == "token" else "block", scale="weight_scale")


def write_fp8_checkpoint(
    directory: Path,
    architecture: str,
    inputs: str,
    ignore: tuple[str, ...] = (),
    **overrides,
) -> PreTrainedModel:
    """Writes a checkpoint in `layout(inputs, ignore)` and returns its oracle."""
    oracle = write_checkpoint(directory, architecture, **overrides)
    form = layout(inputs, ignore)
    rewrite_config(directory, quantization_config=form.config)
    tensors = load_file(directory / "model.safetensors")
    quantized = {
        name: module
        for name, module in oracle.named_modules()
        if isinstance(module, nn.Linear) and name not in form.config["ignore"]
    }
    for name, module in quantized.items():
        weight, scale = quantize(module.weight.detach(), form)
        module.weight.data = dequantize(weight, scale, form.by)
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.weight_scale"] = scale if form.shape is None else scale.reshape(form.shape)
    scales = {}
    if form.input_scale:
        scales = calibrated(oracle, quantized)
        tensors |= {f"{name}.input_scale": scale for name, scale in scales.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name, module in quantized.items():
        together = list(fused_with(name))
        # One that is not quantized leaves the others their weights only.
        if all(other in quantized for other in together):
            widest = max((scales[other] for other in together if scales), default=None)
            round_input(module, inputs, widest)
    return oracle


def fused_with(name: str) -> Iterator[str]:
    """The modules that are one product with this one, itself included."""
    parent, _, own = name.rpartition(".")
    names = next((names for names in FUSED if own in names), (own,))
    return (f"{parent}.{other}" for other in names)


def round_input(module: nn.Module, inputs: str, static: torch.Tensor | None) -> None:
    def rounded(_module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (x,) = args
        if inputs == "tensor":
            return (through_e4m3(x, static),)
        parts = x.split(x.shape[-1] if inputs == "token" else BLOCK, dim=-1)
        scales = [part.abs().amax(-1, keepdim=True) / E4M3_MAX for part in parts]
        return (torch.cat([through_e4m3(*p) for p in zip(parts, scales, strict=True)], dim=-1),)

    module.register_forward_pre_hook(rounded)


def calibrated(oracle: PreTrainedModel, modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """For the input of each module a static scale, [1]; some values will exceed it. The scales of
    fused modules are made to differ."""
    seen: dict[str, float] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _module, args, name=name: seen.update({name: float(args[0].abs().amax())})
        )
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        oracle(torch.tensor([random_prompts(5, seed=8)[-1]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {
        name: torch.tensor([(0.5 + 0.1 * (i % 5)) * largest / E4M3_MAX])
        for i, (name, largest) in enumerate(seen.items())
    }
