"""The ways a run can fail, each ending as one line on stderr, and the way it can be stopped.

InputError is the engine's: wrong usage or bad input, found before training began (exit code 2).
"""

from hala_engine.errors import InputError

__all__ = [
    "InputError",
    "ProcessError",
    "Stopped",
    "TrainError",
]


class TrainError(Exception):
    """Training itself failed (exit code 1), on all processes alike."""


class ProcessError(TrainError):
    """Training failed on this process, perhaps on no other."""


class Stopped(Exception):
    """SIGINT or SIGTERM; whatever had to be saved has been saved (exit code 128 + signal)."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.exit_code = 128 + signum
