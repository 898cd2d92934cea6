"""Runs `quantize`, and reads what it wrote with the safetensors library and nothing of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hala_engine.quantize.job import prepare, quantize
from hala_engine.quantize.report import Report

BLOCK = 128


def convert(directory: Path, dtype: torch.dtype) -> None:
    """Save the checkpoint again, in `dtype`, in the same number of files."""
    sharded = (directory / "model.safetensors.index.json").exists()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.save_pretrained(directory, max_shard_size="300KB" if sharded else "1GB")


def run(source: Path, target: Path, scheme: str = "fp8-dynamic", ignore=()) -> Report:
    """The whole job in this process."""
    return quantize(source, target, *prepare(source, target, scheme, ignore), lambda count: None)


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """`hala-engine quantize` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hala_engine.cli", "quantize", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def left_over(target: Path) -> list[str]:
    """What a failed run left beside the source."""
    return [p.name for p in target.parent.iterdir() if target.name in p.name]


def read_config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def recovered(directory: Path) -> dict[str, torch.Tensor]:
    """Weights as readers see them: float64, scales multiplied in and gone."""
    found = tensors(directory)
    values = {}
    for name, tensor in found.items():
        if name.endswith(".weight_scale"):
            continue
        values[name] = tensor.double()
        scale = found.get(f"{name}_scale")
        if scale is None:
            continue
        scale = scale.double()
        if scale.shape[1] > 1 or scale.shape[0] != tensor.shape[0]:
            rows, columns = tensor.shape
            scale = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[
                :, :columns
            ]
        values[name] *= scale
    return values
