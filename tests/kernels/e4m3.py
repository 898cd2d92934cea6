"""Comparison of quantized results."""

from __future__ import annotations

import torch


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def assert_recovers(
    q: torch.Tensor, scale: torch.Tensor, want: torch.Tensor, error: torch.Tensor | float = 0.0
) -> None:
    """e4m3 `q` [T, N] times its scale (`scale` [T, 1], or a column for each 128 of q) is `want`
    (float64) to half a step of e4m3, and `error`, what the arithmetic before it was off by."""
    width = want.shape[1]
    groups = scale.shape[1]
    assert q.shape == want.shape and groups in (1, -(-width // 128)), (q.shape, scale.shape)
    by_column = scale.double().repeat_interleave(128 if groups > 1 else width, 1)[:, :width]
    recovered = q.double() * by_column
    # e4m3 keeps 3 bits after the point: half a step is 1/16 of a normal value, 2^-10 below that.
    allowed = torch.maximum(want.abs() / 16, by_column * 2.0**-10) * 1.001 + error
    assert torch.isfinite(recovered).all(), "not finite (or never written)"
    excess = ((recovered - want).abs() - allowed).clamp(min=0)
    assert not excess.any(), f"an element is {excess.max().item():.2e} beyond half a step"
