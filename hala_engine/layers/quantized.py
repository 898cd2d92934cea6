"""An activation that has been quantized for the FP8 product that takes it, and what to quantize it
to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """`values` [T, K] e4m3; `scale` [T, 1] or [T, ceil(K / 128)] float32, a multiplier."""

    values: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class InputForm:
    """An FP8 product wants its input as `Quantized`: a scale a token, or a `group` of columns."""

    group: int | None = None


Activation = torch.Tensor | Quantized
