"""Rotary position embedding: the table of angles, made once for every position."""

from __future__ import annotations

import torch


def rotary_table(
    head_dim: int, theta: float, positions: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each [positions, head_dim / 2] float32 (RoFormer, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), 1.0 / theta**exponent)
    return angles.cos().to(device), angles.sin().to(device)
