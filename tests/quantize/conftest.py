"""Small checkpoints to quantize: those of the engine's tests."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))

from checkpoints import write_checkpoint
from quantized_directories import convert


@pytest.fixture
def source(tmp_path) -> Path:
    """A sharded bf16 LFM2 with tied embeddings."""
    write_checkpoint(
        tmp_path / "source", shard_size="300KB", hidden_size=128, intermediate_size=384
    )
    convert(tmp_path / "source", torch.bfloat16)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "target"
