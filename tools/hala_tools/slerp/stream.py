"""Carries a plan out: parts of tensors in, parts of the merged ones out, in processes.

The angle is known only when all of a tensor has been seen, so there are two passes, one to measure
and one to combine. Where a sample says that the combination will be linear, whose weights need no
angle, the first pass combines as well; if the whole tensor says otherwise, the second is made after
all. Sums are taken in the order of parts of a fixed size, so the same merge gives the same bytes
however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from hala_tools.slerp.parts import Passes, Weights, parts_of
from hala_tools.slerp.plan import Plan
from hala_tools.slerp.sphere import Combination, Moments, combination
from hala_tools.slerp.workers import Workers, workers
from hala_tools.slerp.writer import Writer

_PARTS_AHEAD = 16
"""Parts of a tensor that the system is asked to read before they are wanted."""

Progress = Callable[[int], None]
"""Told the bytes of the result that were written since the last call."""


@dataclass(frozen=True)
class Merged:
    """What came of a tensor; both None if it was copied."""

    moments: Moments | None = None
    combination: Combination | None = None


def stream(plan: Plan, writer: Writer, progress: Progress, *, parity: bool = False) -> list[Merged]:
    """Write every tensor of `plan`; returns what came of each, in order.

    `parity`: see sphere.combination. Raises InputError, naming the tensor, for values that are not
    finite and for copies that differ, MergeError when a file shrinks meanwhile, OSError when the
    disk is full.
    """
    passes = Passes(plan.merges, writer)
    count = len(plan.merges)
    tensors: list[_Tensor] = []
    merged: list[Merged] = []
    with workers(passes) as pool:
        # A tensor's first pass keeps the processes busy while the one before it is decided on.
        for step in range(count + 2):
            if step < count:
                tensors.append(_Tensor(step, passes, pool, parity))
            if 0 < step <= count:
                tensors[step - 1].decide()
            if step > 1:
                merged.append(tensors[step - 2].finish())
                done = plan.merges[step - 2].spec.bytes
                writer.begin_to_sync(done)
                progress(done)
    return merged


class _Tensor:
    """A tensor on its way. Its first pass has begun: it measures, and combines if a sample says
    that the weights will not depend on the angle."""

    def __init__(self, number: int, passes: Passes, pool: Workers, parity: bool) -> None:
        self._number = number
        self._merge = passes.merges[number]
        self._pool = pool
        self._parity = parity
        self._parts = parts_of(self._merge)
        for part in self._parts[:_PARTS_AHEAD]:
            self._merge.base.announce(part.start, part.stop)
            self._merge.tuned.announce(part.start, part.stop)
        self._combination: Combination | None = None
        self._whole: Moments | None = None
        self._weights: Weights | None = None
        if self._merge.t is not None:
            guess = combination(passes.sample(number), self._merge.t, parity)
            self._weights = guess.weights if guess.linear else None
        self._waiting = self._pass(measure=True)

    def decide(self) -> None:
        """Wait for the first pass, and begin the second one if it is needed."""
        whole = sum(self._pool.results(self._waiting), Moments())
        self._waiting = []
        if self._merge.t is None:
            return
        self._whole = whole
        self._combination = combination(whole, self._merge.t, self._parity)
        if self._combination.weights != self._weights:
            self._weights = self._combination.weights
            self._waiting = self._pass(measure=False)

    def finish(self) -> Merged:
        """Wait for the second pass."""
        for _ in self._pool.results(self._waiting):
            pass
        return Merged(self._whole, self._combination)

    def _pass(self, measure: bool) -> list[Future[Moments]]:
        return [
            self._pool.submit(self._number, part, self._weights, measure) for part in self._parts
        ]
