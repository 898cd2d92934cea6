"""Steps that would spoil the weights: a loss or gradient that is not a number, or a loss that
leaps. They are found before the optimizer acts, so the weights are still those of the step before.
"""

import math
from collections import deque
from statistics import median

from hala_trainer.config import TrainConfig
from hala_trainer.errors import TrainError

RECENT = 64  # losses whose median a spike is measured against
FEWEST = 16  # before there are so many, nothing is called a spike


class Health:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.skipped_in_a_row = 0
        self.skipped = 0

    def fault(self, step: int, loss: float, grad_norm: float) -> str | None:
        """Why this step must not reach the weights, or None.

        Raises TrainError when the run is to stop for it: at once, or after train.max_bad_steps.
        """
        fault = self._describe(loss, grad_norm)
        if fault is None:
            self.recent.append(loss)
            self.skipped_in_a_row = 0
            return None
        if self.config.on_bad_step == "stop":
            raise TrainError(
                f"step {step}: {fault}; nothing after the last checkpoint is kept. Resume with "
                'train.on_bad_step = "skip" to leave such steps out, or start again with a lower '
                "optim.lr"
            )
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.max_bad_steps:
            raise TrainError(
                f"step {step}: {fault}; with {self.skipped_in_a_row} bad steps in a row "
                "(train.max_bad_steps) the run ends. The last checkpoint is kept; lower optim.lr"
            )
        return fault

    def _describe(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        if self.config.spike and len(self.recent) >= FEWEST:
            usual = median(self.recent)
            if loss > self.config.spike * usual:
                return (
                    f"the loss leapt to {loss:.4g}, over train.spike = {self.config.spike:g} times "
                    f"the recent {usual:.4g}"
                )
        return None

    def state(self) -> dict:
        return {
            "recent": list(self.recent),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: dict) -> None:
        self.recent.extend(state["recent"])
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
