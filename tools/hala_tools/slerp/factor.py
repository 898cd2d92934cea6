"""The interpolation factor t of every tensor: filters over names, gradients over layers.

t = 0 gives the base model, t = 1 the tuned one; values beyond extrapolate. The rules are those of
MergeKit's configuration format: the first filter found within a tensor's name decides, and a list
of values is a gradient, interpolated over the layers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """t of the tensors whose name contains `filter` (None: of all). `values`: one, or a gradient of
    several from the first layer to the last."""

    values: tuple[float, ...]
    filter: str | None = None

    def matches(self, name: str) -> bool:
        return self.filter is None or self.filter in name

    def at(self, position: float) -> float:
        """t at `position` between the first layer, 0, and the last, 1."""
        scaled = position * (len(self.values) - 1)
        left = int(scaled)
        right = min(left + 1, len(self.values) - 1)
        share = scaled - left
        return (1 - share) * self.values[left] + share * self.values[right]


@dataclass(frozen=True)
class Slice:
    """Layers `start` to `stop` (None: to the end) and their `rules`, of which the first that
    matches decides."""

    rules: tuple[Rule, ...]
    start: int = 0
    stop: int | None = None

    def rule(self, name: str) -> Rule | None:
        """The rule that decides t of tensor `name`, if there is one."""
        return next((rule for rule in self.rules if rule.matches(name)), None)

    def position(self, layer: int, layers: int) -> float:
        """Where `layer`, counted from the model's first, lies in the slice; the model has
        `layers`."""
        count = (layers if self.stop is None else self.stop) - self.start
        return (layer - self.start) / (count - 1) if count > 1 else 1.0
