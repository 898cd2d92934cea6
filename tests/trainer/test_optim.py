"""Schedules, clipping and decay."""

import pytest
import torch

from hala_trainer.config import OptimConfig
from hala_trainer.optim import build_optimizer, clip, gradient_norm, learning_rate


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_then_follows_the_schedule(schedule):
    config = OptimConfig(lr=1.0, min_lr=0.1, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(s, 110, config) for s in range(1, 111)]
    assert rates[:10] == pytest.approx([s / 10 for s in range(1, 11)])
    assert rates[59] == pytest.approx(1.0 if schedule == "constant" else 0.55)
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_a_warm_up_longer_than_the_run_is_shortened():
    config = OptimConfig(lr=1.0, warmup_steps=100)
    assert [learning_rate(s, 3, config) for s in (1, 2, 3)] == pytest.approx([0.5, 1.0, 0.0])


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (9.0, 5.0)])
def test_gradients_are_clipped_by_their_global_norm(limit, after):
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = gradient_norm([a, b])
    assert norm.item() == pytest.approx(5)
    clip([a, b], limit, norm)
    assert torch.cat([a.grad, b.grad]).norm().item() == pytest.approx(after)


def test_only_matrices_decay():
    masters = {"w": torch.ones(2, 2, requires_grad=True), "norm": torch.ones(2, requires_grad=True)}
    masters["conv"] = torch.ones(2, 1, 3, requires_grad=True)
    optimizer = build_optimizer(masters, OptimConfig(lr=0.1, weight_decay=0.5))
    for p in masters.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert masters["w"].mean().item() == pytest.approx(0.95)
    assert masters["norm"].mean().item() == masters["conv"].mean().item() == 1
