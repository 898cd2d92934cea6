"""A pair of random LFM2 checkpoints to merge, of any size: written as fast as the disk takes it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from hala_engine.weights.writer import SafetensorsWriter, TensorSpec
from tests.tools.slerp.layouts import Dims, tensor_shapes
from tests.tools.slerp.shapes import write_rest

LFM2_1_2B = Dims(
    vocab=65536,
    hidden=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    ff=8192,
    attention=(2, 5, 8, 10, 12, 14),
)

NEAR, FAR = 0.01, 0.1
"""Norm of the tuned model's noise over the base's: cosines of 0.9999 and 0.995."""

FAR_EVERY = 5
"""One tensor in so many is interpolated along the arc, where the others go straight."""

POOL = 1 << 23
STRIDE = 999_983


def write(directory: Path, dims: Dims) -> tuple[Path, Path]:
    """Writes and returns `directory`/base and `directory`/tuned, bf16, one file each, synced.

    The values repeat every POOL elements, from another place of the pool in each tensor.
    """
    random = np.random.default_rng(0)
    base, noise = (random.standard_normal(POOL, np.float32) for _ in range(2))
    pools = {spread: 0.02 * (base + spread * noise) for spread in (0, NEAR, FAR)}
    pools = {spread: _bytes(pool) for spread, pool in pools.items()}
    for side in ("base", "tuned"):
        target = directory / side
        target.mkdir(parents=True)
        write_rest(target, "lfm2", dims)
        specs = specs_of(dims)
        with SafetensorsWriter(target / "model.safetensors", specs, {"format": "pt"}) as writer:
            for i, (name, spec) in enumerate(specs.items()):
                spread = 0 if side == "base" else NEAR if i % FAR_EVERY else FAR
                _write_repeated(writer, name, spec.bytes, pools[spread], 2 * (i * STRIDE % POOL))
    return directory / "base", directory / "tuned"


def specs_of(dims: Dims) -> dict[str, TensorSpec]:
    return {name: TensorSpec("BF16", shape) for name, shape in tensor_shapes("lfm2", dims).items()}


def _bytes(values: np.ndarray) -> memoryview:
    return values.astype(ml_dtypes.bfloat16).view(np.uint8).data


def _write_repeated(
    writer: SafetensorsWriter, name: str, size: int, pool: memoryview, start: int
) -> None:
    """Writes tensor `name` of `size` bytes: `pool` from byte `start` on, again and again."""
    written = 0
    while written < size:
        part = pool[start : start + size - written]
        writer.write(name, part, written)
        written += part.nbytes
        start = 0
