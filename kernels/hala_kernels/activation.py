"""Gated activations of the MLP: `act(gate) * up` for a fused gate-and-up projection.

Floor: read 2N columns, write N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU: `gate_up` [T, 2N] holds gate then up; returns silu(gate) * up, [T, N]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
