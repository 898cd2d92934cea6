"""Random weights of an architecture: to measure what it costs at its real size without a
checkpoint of that size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hala_engine.weights.checkpoint import Entry
from hala_engine.weights.quantization import BLOCK, Schemes
from hala_engine.weights.source import Placement

MATRIX_STD = 0.02
"""`initializer_range` of all these architectures: with it activations neither vanish nor grow."""

NORM_SPREAD = 0.1
LARGEST = 6 * MATRIX_STD
"""Largest weight of a matrix that has one scale: beyond it fall two normal values in 10^9."""

INPUT_SCALE = 8 / 448
"""Of inputs with a fixed scale: normed activations stay below 8 but for rare outliers."""

PIECE = 1 << 26
"""Values that exist in float32 at a time."""

FP8_MAX = 448.0


class RandomSource:
    """A `Source` whose tensors depend on `seed`, their name and shape, and the kind of device, and
    not on the order of reading or on how the model is quantized.

    Matrices are N(0, 0.02), biases too; weights of norms lie within 0.1 of 1; filters of a
    convolution keep the size of their input. A quantized matrix is the dense one of the same seed,
    rounded to e4m3 by its scheme, so that the two models differ by quantization alone.
    Tensors are made on `place.device`, in `place.dtype` unless they are e4m3 or scales.
    """

    def __init__(self, place: Placement, schemes: Schemes, seed: int) -> None:
        self._place, self._schemes, self._seed = place, schemes, seed
        self._last: tuple[str, torch.Tensor, torch.Tensor] | None = None

    def read(self, name: str, shape: tuple[int, ...], dim: int, part: slice | None) -> torch.Tensor:
        """See `Source`."""
        tensor = self._whole(name, shape)
        return tensor if part is None else tensor.narrow(dim, part.start, part.stop - part.start)

    def find_scales(self, name: str, count: int) -> torch.Tensor | None:
        """None: an FP8 cache is not calibrated."""
        return None

    def where(self, name: str) -> str:
        """See `Source`."""
        return "random weights"

    def _whole(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        module, _, kind = name.rpartition(".")
        scheme = self._schemes.get(module)
        if scheme is None or kind == "bias":
            return self._dense(name, shape)
        if kind == "weight":
            self._last = (module, *self._quantized(name, shape, scheme.weights))
            return self._last[1]
        if kind == scheme.scale and self._last and self._last[0] == module:
            return self._last[2]
        if kind == scheme.input_scale:
            return torch.full((1,), INPUT_SCALE)
        raise KeyError(f"{name}: the scale is asked for before its weight")

    def _dense(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        place, generator = self._place, self._generator(name)
        out = torch.empty(shape, dtype=place.dtype, device=place.device)
        if len(shape) == 1 and name.endswith("weight"):
            values = torch.rand(shape, generator=generator, device=place.device)
            return out.copy_(1 + NORM_SPREAD * (2 * values - 1))
        std = MATRIX_STD if len(shape) < 3 else math.prod(shape[1:]) ** -0.5
        for rows in out.split(_rows_at_a_time(shape)):
            rows.copy_(self._normal(rows.shape, std, generator))
        return out

    def _quantized(
        self, name: str, shape: tuple[int, ...], by: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """e4m3 [N, K] and its float32 scale by "tensor", "channel" or "block"."""
        generator, device = self._generator(name), self._place.device
        out = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        scales = []
        for rows in out.split(_rows_at_a_time(shape)):
            values = self._normal(rows.shape, MATRIX_STD, generator)
            scale, spread = _scale(values, by)
            rows.copy_((values / spread).clamp_(-FP8_MAX, FP8_MAX))
            scales.append(scale)
        return out, scales[0] if by == "tensor" else torch.cat(scales)

    def _normal(
        self, shape: tuple[int, ...], std: float, generator: torch.Generator
    ) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=self._place.device).mul_(std)

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = torch.Generator(self._place.device)
        return generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _rows_at_a_time(shape: tuple[int, ...]) -> int:
    """So many that scales of blocks are not cut."""
    return max(1, PIECE // math.prod(shape[1:]) // BLOCK) * BLOCK


def _scale(values: torch.Tensor, by: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales of [N, K] as they are stored, and as they divide."""
    if by == "tensor":
        scale = torch.full((1,), LARGEST / FP8_MAX, device=values.device)
        return scale, scale
    if by == "channel":
        scale = values.abs().amax(1, keepdim=True) / FP8_MAX
        return scale, scale
    rows, columns = values.shape
    padded = F.pad(values.abs(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    scale = padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).amax((1, 3)) / FP8_MAX
    spread = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return scale, spread


@dataclass(frozen=True)
class ImaginedHeaders:
    """Stands in for a `Checkpoint` where only what its headers say is asked for."""

    entries: dict[str, Entry]

    @classmethod
    def of(
        cls, raw: dict, tensors: Mapping[str, tuple[int, ...]], modules: tuple[str, ...]
    ) -> ImaginedHeaders:
        """The matrices of a fine-grained FP8 checkpoint with the config.json `raw`: by such headers
        it tells which `modules` are quantized, and how. Other methods say that in `raw` itself."""
        config = raw.get("quantization_config") or {}
        if config.get("quant_method") != "fp8":
            return cls({})
        kept = config.get("modules_to_not_convert") or config.get("ignored_layers") or ["lm_head"]
        found = {}
        for module in modules:
            if any(module == name or module.startswith(f"{name}.") for name in kept):
                continue
            rows, columns = tensors[f"{module}.weight"]
            found[f"{module}.weight"] = Entry("", (rows, columns), "F8_E4M3", 0)
            if config.get("weight_block_size"):
                blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
                found[f"{module}.weight_scale_inv"] = Entry("", blocks, "F32", 0)
            else:
                found[f"{module}.weight_scale"] = Entry("", (1,), "F32", 0)
        return cls(found)
