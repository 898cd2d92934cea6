"""RMS normalisation over the last dimension, optionally with the residual added first.

    h = x + residual;  y = w * h / sqrt(mean(h^2) + eps)

The mean is taken in float32 whatever the dtype of `x`. Floor: read x (and residual), write y
(and h), once each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise `x` [..., N] and scale by `weight` [N]; the result has the dtype of `x`."""
    normalised = F.rms_norm(x.float(), (x.shape[-1],), eps=eps)
    return normalised.to(x.dtype) * weight


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + residual` and its norm; both [..., N], in the dtype of `x`."""
    total = x + residual
    return rms_norm(total, weight, eps), total
