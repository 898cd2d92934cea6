"""The result of a measurement, as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from hala_engine.benchmark.measure import Measured
from hala_engine.benchmark.workload import Workload

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class BaselineResult:
    """`seconds`: of each run of the workload."""

    name: str
    load_s: float
    seconds: list[float]


@dataclass(frozen=True)
class BenchResult:
    """`batch_size`: sequences that our engine and the baseline run at once. `engine`: its
    configuration, as it was given. Figures are medians over the samples."""

    model: str
    architecture: str
    random_weights: bool
    date: str
    device_name: str
    versions: dict[str, str]
    engine: dict[str, Any]
    workload: Workload
    batch_size: int
    measured: Measured
    baseline: BaselineResult | None = None

    def summary(self) -> dict[str, float]:
        """seconds of the workload and what follows from them. `mean_batch`: new tokens a step;
        `occupancy`: that over `batch_size`; `host_share`: of `seconds`; `ratio`: new tokens/s over
        the baseline's."""
        prompt, output = (sum(lengths) for lengths in self.workload.lengths())
        samples = self.measured.samples
        seconds = median(sample.seconds for sample in samples)
        steps = median(sample.steps for sample in samples)
        figures = {
            "load_s": self.measured.load_s,
            "first_token_s": median(sample.first_token_s for sample in samples),
            "seconds": seconds,
            "requests_per_s": self.workload.requests / seconds,
            "prompt_tokens_per_s": prompt / seconds,
            "new_tokens_per_s": output / seconds,
            "steps": steps,
            "mean_batch": output / steps,
            "occupancy": output / steps / self.batch_size,
            "preemptions": median(sample.preemptions for sample in samples),
            "host_share": median(sample.host_s / sample.seconds for sample in samples),
            "peak_memory_bytes": self.measured.peak_memory_bytes,
        }
        if self.baseline is not None:
            theirs = median(self.baseline.seconds)
            figures |= {
                "baseline_seconds": theirs,
                "baseline_new_tokens_per_s": output / theirs,
                "ratio": theirs / seconds,
            }
        return figures

    def to_dict(self) -> dict[str, Any]:
        """With every sample."""
        prompt, output = (sum(lengths) for lengths in self.workload.lengths())
        tokens = {"prompt_tokens": prompt, "output_tokens": output}
        return asdict(self) | {"tokens": tokens, "summary": self.summary()}

    def heading(self) -> str:
        """What was measured, in a sentence."""
        prompt, output = (sum(lengths) for lengths in self.workload.lengths())
        weights = "random weights" if self.random_weights else "its weights"
        return (
            f"{self.model} ({self.architecture}, {weights}, {self.measured.dtype}) on "
            f"{self.device_name}: {self.workload.requests:,} requests, {prompt:,} prompt and "
            f"{output:,} new tokens, up to {self.batch_size} at once, medians of "
            f"{len(self.measured.samples)} runs"
        )

    def table(self) -> Table:
        from rich.table import Table

        table = Table()
        table.add_column(no_wrap=True)
        table.add_column("hala-engine", justify="right")
        ours, theirs = self._ours(), self._theirs()
        if theirs:
            table.add_column(self.baseline.name, justify="right")
        for name, value in ours.items():
            table.add_row(name, value, *([theirs.get(name, "")] if theirs else []))
        if theirs:
            table.add_row("new tokens/s, ratio", f"{self.summary()['ratio']:.2f}x", "1x")
        return table

    def _ours(self) -> dict[str, str]:
        s = self.summary()
        memory = "memory reserved" if self.measured.device.startswith("cuda") else "resident memory"
        return {
            "load": f"{s['load_s']:.2f} s",
            "first token of one prompt": f"{1e3 * s['first_token_s']:,.1f} ms",
            "requests/s": f"{s['requests_per_s']:,.1f}",
            "prompt tokens/s": f"{s['prompt_tokens_per_s']:,.0f}",
            "new tokens/s": f"{s['new_tokens_per_s']:,.0f}",
            "steps": f"{s['steps']:,.0f}",
            "new tokens a step": f"{s['mean_batch']:,.1f} ({s['occupancy']:.0%} of the batch)",
            "preemptions": f"{s['preemptions']:,.0f}",
            "time in the host": f"{s['host_share']:.1%}",
            f"most {memory}": f"{s['peak_memory_bytes'] / 1e9:,.2f} GB",
        }

    def _theirs(self) -> dict[str, str]:
        if self.baseline is None:
            return {}
        s, seconds = self.summary(), median(self.baseline.seconds)
        prompt = sum(self.workload.lengths()[0])
        return {
            "load": f"{self.baseline.load_s:.2f} s",
            "requests/s": f"{self.workload.requests / seconds:,.1f}",
            "prompt tokens/s": f"{prompt / seconds:,.0f}",
            "new tokens/s": f"{s['baseline_new_tokens_per_s']:,.0f}",
        }
