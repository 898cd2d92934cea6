"""Comparison with a float64 reference."""

from __future__ import annotations

import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative error that one rounding to the dtype and float32 arithmetic leave."""


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want| in the Frobenius norm; NaN anywhere gives NaN."""
    got, want = got.double().cpu(), want.double().cpu()
    if want.numel() == 0:
        return 0.0
    norm = want.norm().item()
    return ((got - want).norm().item() / norm) if norm else got.norm().item()


def assert_near(got: torch.Tensor, want: torch.Tensor, tolerance: float | None = None) -> None:
    """`got` is `want` (float64) but for rounding: as a whole, and no element far off.

    An element may be off by 4 times the tolerance of its own size and, for sums that cancel, of the
    root mean square of all.
    """
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, not {tuple(want.shape)}"
    assert torch.isfinite(got.double()).all(), "not finite (or never written)"
    tolerance = tolerance or TOLERANCE[got.dtype]
    error = relative_error(got, want)
    assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"
    got, want = got.double().cpu(), want.double().cpu()
    if want.numel():
        allowed = 4 * tolerance * (want.abs() + want.pow(2).mean().sqrt())
        worst = ((got - want).abs() - allowed).max().item()
        assert worst <= 0, f"an element is {worst:.2e} beyond its tolerance"
