"""How a linear layer of a checkpoint is quantized to e4m3 (FP8), whatever format said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

BLOCK = 128
"""Rows and columns that share a scale in the block strategy, as the kernels multiply them."""


@dataclass(frozen=True)
class Scheme:
    """A value is recovered as q * scale.

    weights: a scale a "tensor", a "channel" (output row) or a "block" of 128 x 128.
    activations: "token" or "group" (of 128 columns), with scales found at run time; "tensor", one
    scale from the checkpoint; None, not quantized.
    scale, input_scale: the names of the tensors beside the module's `weight`.
    """

    weights: str
    activations: str | None
    scale: str = "weight_scale"
    input_scale: str = "input_scale"

    def scale_shapes(self, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
        """The shapes that the scale of a [rows, columns] weight may have on disk."""
        if self.weights == "block":
            return ((-(-rows // BLOCK), -(-columns // BLOCK)),)
        if self.weights == "channel":
            return ((rows, 1), (rows,))
        return SCALAR_SHAPES


SCALAR_SHAPES = ((1,), (), (1, 1))

Schemes = Mapping[str, Scheme]
"""The schemes of a checkpoint's quantized linear modules, by their names."""


def share_a_product(schemes: Sequence[Scheme | None]) -> bool:
    """Whether matrices of these schemes can be multiplied as one in FP8: all quantized, and alike,
    and so their input."""
    first = schemes[0]
    return first is not None and first.activations is not None and len(set(schemes)) == 1


def dequantize(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`weight` [N, K] e4m3 times `scale` ([N, 1], [1, 1] or [ceil(N/128), ceil(K/128)] float32),
    rounded once to `dtype`."""
    rows, columns = weight.shape
    out = torch.empty(rows, columns, dtype=dtype)
    by_row = scale.shape == (rows, 1)
    # A block of rows at a time, lest the float32 form of a whole matrix exist.
    for start in range(0, rows, BLOCK):
        block = slice(start, start + BLOCK)
        if by_row:
            factor = scale[block]
        elif scale.numel() == 1:
            factor = scale
        else:
            factor = scale[start // BLOCK].repeat_interleave(BLOCK)[:columns]
        out[block] = weight[block].float() * factor
    return out
