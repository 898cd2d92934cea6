"""Draws follow the softmax of what is kept, and the noise behind them is uniform.

Distributions need many rows at once: with the kernel only on a GPU, where rows are cheap.
"""

from __future__ import annotations

import pytest
import torch

from hala_kernels.backend import forced
from hala_kernels.sample import sample
from hala_kernels.sample_noise import noise, noise_keys_reference
from tests.kernels.sample_oracle import exact_margin, tensors

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.2, 1.9, -4.0, 0.0, 0.9])


@pytest.fixture
def many(device):
    with forced("auto"):
        yield 40_000


def frequencies(logits: torch.Tensor, draws: int, device, **values) -> torch.Tensor:
    logits = logits.to(device).expand(draws, -1)
    tokens, _ = sample(logits, tensors(draws, device, **values))
    return torch.bincount(tokens, minlength=logits.shape[1]).double().cpu()


def chi_square_excess(counts: torch.Tensor, p: torch.Tensor) -> float:
    """Standard deviations by which Pearson's statistic exceeds its mean."""
    expected = p * counts.sum()
    degrees = len(p) - 1
    return ((((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5).item()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vary", ["position", "seed"])
def test_frequencies_follow_the_softmax(temperature, vary, many, device):
    numbers = {"seed": 0, "position": 7, vary: torch.arange(many)}
    counts = frequencies(LOGITS, many, device, temperature=temperature, **numbers)
    assert chi_square_excess(counts, (LOGITS.double() / temperature).softmax(0)) < 4


def test_a_flat_distribution_has_no_favourites(many, device):
    counts = frequencies(torch.zeros(1000), many, device)
    assert chi_square_excess(counts, torch.full((1000,), 1e-3, dtype=torch.float64)) < 4
    assert abs(counts[:500].sum() - many / 2) < 4 * (many / 4) ** 0.5


def test_successive_draws_are_independent(many, device):
    logits = LOGITS.to(device).expand(many, -1)
    p = LOGITS.double().softmax(0)
    draws = [
        sample(logits, tensors(many, device, seed=seed, position=position))[0].cpu()
        for seed in (3, 4)
        for position in (torch.arange(many), torch.arange(many) + 1)
    ]
    pairs = (p.unsqueeze(1) * p).flatten()
    for first, second in ((0, 1), (0, 2), (1, 2), (0, 3)):
        counts = torch.bincount(draws[first] * 8 + draws[second], minlength=64).double()
        if (first, second) in ((0, 1), (1, 2)):  # the same numbers a step apart: shift one back
            counts = torch.bincount(draws[first][1:] * 8 + draws[second][1:], minlength=64).double()
        assert chi_square_excess(counts, pairs) < 5


def test_noise_is_uniform_and_uncorrelated():
    ids, rows = torch.arange(65536), []
    for seed, position in ((0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0), (-1, 5)):
        keys = noise_keys_reference(torch.tensor(seed), torch.tensor(position))
        rows.append((-(noise(ids, keys).double().neg().exp2())).exp())  # exp(-E) is uniform
    for u in rows:
        counts = torch.histc(u.float(), 256, 0, 1).double()
        assert chi_square_excess(counts, torch.full((256,), 1 / 256, dtype=torch.float64)) < 4
    stack = torch.stack([*rows, rows[0].roll(1), rows[0].roll(256)])
    correlation = torch.corrcoef(stack) - torch.eye(len(stack))
    assert correlation.abs().max() * 256 < 4.5


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 1), ("top_k", 3), ("top_p", 0.3), ("top_p", 0.8), ("min_p", 0.2), ("min_p", 0.6)],
)
def test_filtered_frequencies_follow_the_softmax_of_the_kept(name, value, many, device):
    counts = frequencies(LOGITS, many, device, **{name: value})
    margin = exact_margin(LOGITS.double()[None], tensors(1, "cpu", **{name: value}), 0)
    kept = margin > 0
    assert torch.equal(counts > 0, kept)
    if kept.sum() > 1:
        assert chi_square_excess(counts[kept], LOGITS.double()[kept].softmax(0)) < 4
