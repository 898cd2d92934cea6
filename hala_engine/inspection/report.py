"""What `inspect` found, as tables and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


@dataclass(frozen=True)
class LayerKind:
    """`count` layers of a kind: full, sliding (with its window) or conv."""

    kind: str
    count: int
    window: int | None = None

    def __str__(self) -> str:
        names = {
            "full": "full attention",
            "sliding": f"sliding window of {self.window:,}" if self.window else "",
            "conv": "convolution",
        }
        return f"{self.count} {names[self.kind]}"


@dataclass(frozen=True)
class Quantization:
    """`layers`: how many linear layers have which weights and activations. `left`: the names of
    linear layers that are not quantized."""

    layers: dict[str, int]
    left: tuple[str, ...]

    def __str__(self) -> str:
        """A line for each way, and one for those left, by their names inside a layer."""
        lines = [f"FP8 (e4m3) in {sum(self.layers.values()):,} linear layers"]
        lines += [f"{count:,} with {how}" for how, count in self.layers.items()]
        kinds = Counter(re.sub(r"^.*\.\d+\.", "", name) for name in self.left)
        names = [name if count == 1 else f"{count:,} {name}" for name, count in kinds.items()]
        return "\n".join([*lines, f"not in: {', '.join(names)}"] if names else lines)


@dataclass(frozen=True)
class SequenceCost:
    """Sequences of `tokens` tokens, prompt and output: `bytes` of one, how many `fit` into the
    memory, and how many of those `run` at once."""

    tokens: int
    bytes: int
    fit: int
    run: int


@dataclass(frozen=True)
class CacheCost:
    """Of one dtype of K and V. `full_bytes_per_token`: in layers that see everything.
    `window_bytes_per_token`: in the layers of each window, for tokens up to it.
    `state_bytes`: of a sequence's convolution states. `max_model_len`: tokens of the longest
    sequence that fits; 0: none does."""

    dtype: str
    full_bytes_per_token: int
    window_bytes_per_token: dict[int, int]
    state_bytes: int
    max_model_len: int
    sequences: tuple[SequenceCost, ...]


@dataclass(frozen=True)
class Inspection:
    """Sizes are in bytes. `parameters` counts a matrix that is input and output once; `output` is
    0 then. `stored`: parameters by dtype on disk. `cache`: by --kv-cache-dtype."""

    model: str
    architecture: str
    vocabulary: int
    context: int
    layers: tuple[LayerKind, ...]
    parameters: int
    embedding: int
    output: int
    stored: dict[str, int]
    files: int
    disk_bytes: int
    quantization: Quantization | None
    device: str
    dtype: str
    keeps_fp8: bool
    loaded_bytes: int
    free_bytes: int
    memory_utilization: float
    max_batch_size: int
    cache: dict[str, CacheCost]

    def to_dict(self) -> dict:
        return asdict(self)

    def tables(self) -> list[RenderableType]:
        """The model and its weights; then the cache."""
        heading = (
            f"Cache in {self.memory_utilization:.0%} of the memory that the weights leave, "
            f"--max-batch-size {self.max_batch_size}:"
        )
        return [f"{self.model}:", self._weights(), heading, self._costs()]

    def _weights(self) -> Table:
        from rich.table import Table

        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        output = f"output {self.output:,}" if self.output else "which is the output's too"
        stored = ", ".join(f"{count:,} {dtype}" for dtype, count in self.stored.items())
        files = "1 file" if self.files == 1 else f"{self.files} files"
        rows = {
            "architecture": self.architecture,
            "vocabulary": f"{self.vocabulary:,}",
            "context": f"{self.context:,} tokens",
            "layers": ", ".join(map(str, self.layers)),
            "parameters": f"{self.parameters:,}: embedding {self.embedding:,}, {output}",
            "on disk": f"{_size(self.disk_bytes)} in {files}: {stored}",
            "quantization": "none" if self.quantization is None else str(self.quantization),
            f"loaded on {self.device}": f"{_size(self.loaded_bytes)} in {self.dtype}{self._fp8()}",
            "memory": f"{_size(self.free_bytes)} free before loading{self._shortage()}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table

    def _fp8(self) -> str:
        if self.quantization is None:
            return ""
        return ", FP8 where quantized" if self.keeps_fp8 else "; FP8 is de-quantized there"

    def _shortage(self) -> str:
        return "; the weights do not fit" if self.loaded_bytes > self.free_bytes else ""

    def _costs(self) -> Table:
        from rich.table import Table

        table = Table()
        table.add_column("--kv-cache-dtype", no_wrap=True)
        for name in self.cache:
            table.add_column(name, justify="right", no_wrap=True)
        costs = list(self.cache.values())
        table.add_row("K and V in", *(cost.dtype for cost in costs))
        table.add_row("each token", *(_size(cost.full_bytes_per_token) for cost in costs))
        for window in costs[0].window_bytes_per_token:
            sizes = (_size(cost.window_bytes_per_token[window]) for cost in costs)
            table.add_row(f"each of the last {window:,}", *sizes)
        table.add_row("convolution states", *(_size(cost.state_bytes) for cost in costs))
        table.add_row("longest sequence", *(f"{cost.max_model_len:,} tokens" for cost in costs))
        for of_length in zip(*(cost.sequences for cost in costs), strict=True):
            table.add_section()
            tokens = of_length[0].tokens
            table.add_row(f"sequence of {tokens:,}", *(_size(cost.bytes) for cost in of_length))
            table.add_row("so many fit", *(f"{cost.fit:,}" for cost in of_length))
            table.add_row("run at once", *(f"{cost.run:,}" for cost in of_length))
        return table


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,} bytes"
