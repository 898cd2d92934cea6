"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EngineStats:
    """What runs now (`running`, `waiting`, `cache_use` from 0 to 1) and totals since the start.
    `shared_tokens`: prompt tokens that were not computed, since a shared prefix had been.
    `seconds`: in `generate`; `step_seconds`: of these, while a step was being computed."""

    max_batch_size: int
    running: int = 0
    waiting: int = 0
    cache_use: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    shared_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0

    @property
    def host_share(self) -> float:
        """Of the time, what the device waited for or, on a CPU, what went to no step: tokenizer,
        scheduler, and whoever takes the outputs."""
        return 1 - self.step_seconds / self.seconds if self.seconds else 0.0
