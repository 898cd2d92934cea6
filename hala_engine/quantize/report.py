"""What a quantization did, as a table and as JSON."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WORST_SHOWN = 5


@dataclass(frozen=True)
class LayerError:
    """relative_error: ||W - dequantized|| / ||W||, Frobenius norms over the whole matrix."""

    module: str
    shape: tuple[int, int]
    relative_error: float

    @property
    def kind(self) -> str:
        """The module's name inside its layer: `mlp.down_proj`."""
        return re.split(r"\.\d+\.", self.module)[-1]


@dataclass(frozen=True)
class Report:
    """Sizes are those of the weights, in bytes. ignore: linear modules that stay as they were."""

    source: str
    target: str
    scheme: str
    source_bytes: int
    written_bytes: int
    seconds: float
    layers: tuple[LayerError, ...]
    ignore: tuple[str, ...]

    def to_dict(self) -> dict:
        return asdict(self)

    def tables(self) -> list[RenderableType]:
        """Sizes, errors by kind of layer, and the worst layers."""
        return [self._sizes(), self._kinds(), self._worst()]

    def _sizes(self) -> str:
        before, after = self.source_bytes, self.written_bytes
        return (
            f"{self.target}: {self.scheme}, {len(self.layers):,} layers quantized, "
            f"{before / 1e9:,.3f} GB -> {after / 1e9:,.3f} GB ({after / before:.1%}) "
            f"in {self.seconds:,.1f} s"
        )

    def _kinds(self) -> RenderableType:
        table = _table("layers", "count", "mean error", "worst error")
        of_kind: dict[str, list[float]] = {}
        for layer in self.layers:
            of_kind.setdefault(layer.kind, []).append(layer.relative_error)
        for kind, errors in of_kind.items():
            mean = sum(errors) / len(errors)
            table.add_row(kind, f"{len(errors):,}", f"{mean:.4%}", f"{max(errors):.4%}")
        return table

    def _worst(self) -> RenderableType:
        table = _table("worst layers", "shape", "error")
        worst = sorted(self.layers, key=lambda layer: -layer.relative_error)[:WORST_SHOWN]
        for layer in worst:
            shape = " x ".join(str(size) for size in layer.shape)
            table.add_row(layer.module, shape, f"{layer.relative_error:.4%}")
        return table


def _table(first: str, *others: str) -> RenderableType:
    from rich.table import Table

    table = Table()
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
