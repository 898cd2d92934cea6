"""What counts as a bad step, and when one ends the run."""

import math

import pytest

from hala_trainer.config import TrainConfig
from hala_trainer.errors import TrainError
from hala_trainer.health import FEWEST, Health


def skipping(**changes) -> Health:
    return Health(TrainConfig(on_bad_step="skip", **changes))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_bad(bad):
    health = skipping()
    assert health.fault(1, 2.0, 1.0) is None
    assert health.fault(2, bad, 1.0) == f"the loss is {bad}"
    assert health.fault(3, 2.0, bad) == f"the gradient's norm is {bad}"


def test_a_loss_far_above_the_recent_median_is_a_spike():
    health = skipping(spike=3.0)
    for step in range(FEWEST):
        assert health.fault(step, 50.0 if step == 1 else 2.0, 1.0) is None  # too early to tell
    assert "the loss leapt to 6.1" in health.fault(98, 6.1, 1.0)
    assert health.fault(99, 5.9, 1.0) is None
    assert list(health.recent)[-1] == 5.9  # what was skipped is not the new usual


def test_without_a_limit_no_finite_loss_is_bad():
    health = skipping()
    assert all(health.fault(step, 10.0**step, 1.0) is None for step in range(40))


def test_a_run_that_is_to_stop_stops_at_the_first():
    with pytest.raises(TrainError, match="step 7: the loss is nan"):
        Health(TrainConfig()).fault(7, math.nan, 1.0)


def test_only_bad_steps_in_a_row_end_a_skipping_run():
    health = skipping(max_bad_steps=2)
    for step in range(10):
        health.fault(step, math.nan if step % 2 else 1.0, 1.0)
    assert health.skipped == 5
    health.fault(10, 1.0, 1.0)
    health.fault(11, math.nan, 1.0)
    with pytest.raises(TrainError, match="2 bad steps in a row"):
        health.fault(12, math.nan, 1.0)


def test_a_resumed_run_knows_what_is_usual():
    first = skipping(spike=2.0, max_bad_steps=3)
    for step in range(100):
        first.fault(step, 1.0 + step / 100, 1.0)
    first.fault(100, math.nan, 1.0)
    second = skipping(spike=2.0, max_bad_steps=3)
    second.restore(first.state())
    assert second.state() == first.state()
    assert second.fault(101, 5.0, 1.0) == first.fault(101, 5.0, 1.0) is not None
