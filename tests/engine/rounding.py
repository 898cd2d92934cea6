"""`transformers` models made to round as FP8 does, as oracles; and how rounded logits compare."""

from __future__ import annotations

import sys

import pytest
import torch
from transformers import PreTrainedModel

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448


def through_e4m3(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` as it is after a stay in e4m3 with `scale`, which broadcasts."""
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).to(x.dtype) * scale


def round_cache(
    monkeypatch: pytest.MonkeyPatch,
    model: PreTrainedModel,
    scales: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """K (after its rotation) and V of all models of this architecture go through e4m3; `scales`
    has those of K and V, each [1] or [kv_heads], for each attention layer, 1 if not given."""
    modeling = sys.modules[type(model).__module__]
    eager = modeling.eager_attention_forward

    def attend(module, query, key, value, *args, **options):
        ones = torch.ones(1)
        k_scale, v_scale = (scales or {}).get(module.layer_idx, (ones, ones))
        key = through_e4m3(key, k_scale.view(1, -1, 1, 1))
        value = through_e4m3(value, v_scale.view(1, -1, 1, 1))
        return eager(module, query, key, value, *args, **options)

    monkeypatch.setattr(modeling, "eager_attention_forward", attend)


def row_errors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """[T]: the error of each row of logits, relative to the row."""
    return (actual - expected).norm(dim=1) / expected.norm(dim=1)


def assert_rounded_alike(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Where two computations in float32 round to e4m3, they differ by what float32 loses, but for
    the rare value that lies so near the middle of two e4m3 numbers that they take different ones.
    What comes after it is then rounded differently too. So of the rows most are equal, and none is
    further off than by the rounding itself."""
    errors = torch.cat([row_errors(a, e) for a, e in zip(actual, expected, strict=True)])
    assert errors.median() < 1e-5, errors.median()
    assert errors.max() < 0.2, errors.max()
