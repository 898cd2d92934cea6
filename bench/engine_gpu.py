"""The parts of `python -m bench.gpu engine`, each in a process of its own and within its time: one
that fails, or is not reached, costs the others nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.engine_parts import PARTS
from bench.stage_parts import run_parts, targets_table

SECONDS = {
    "throughput": 110,
    "transformers": 80,
    "batches": 80,
    "fp8_9b": 110,
    "idle": 50,
    "continuous": 110,
    "fp8_111b": 110,
    "deterministic": 60,
}
"""The most that each part takes; most end sooner."""


def measure(
    out: Path,
    deadline: float,
    console: Console,
    *,
    device: str = "cuda",
    tiny: bool = False,
    only: list[str] | None = None,
) -> dict[str, Any]:
    """Every part's result by its name; those with an "error" hold what was measured before it, and
    "not_reached" names those for which no time was left."""
    seconds = {name: SECONDS[name] for name in only or PARTS}
    return run_parts(
        "bench.engine_parts", seconds, out, deadline, console, device=device, tiny=tiny
    )


def summarize(parts: dict[str, Any]) -> dict[str, Any]:
    """The figures that the targets speak of; those that were not measured are left out."""
    found: dict[str, Any] = {}
    ours = _best(parts.get("throughput", {}).get("runs"))
    if ours:
        found["new_tokens_per_s"] = ours["new_tokens_per_s"]
        found["slots"] = ours["slots"]
        found["share_of_floor"] = ours["share_of_floor"]
    theirs = _best(parts.get("transformers", {}).get("runs"))
    if theirs:
        found["transformers_new_tokens_per_s"] = theirs["new_tokens_per_s"]
    if ours and theirs:
        found["over_transformers"] = ours["new_tokens_per_s"] / theirs["new_tokens_per_s"]
    continuous = parts.get("continuous", {})
    own = continuous.get("lfm2_1b2", {}).get("new_tokens_per_s")
    if ours and own:
        found["over_continuous"] = ours["new_tokens_per_s"] / own
    if "ratio" in continuous.get("llama_1b2", {}):
        found["over_continuous_llama"] = continuous["llama_1b2"]["ratio"]
    if "ratio" in parts.get("fp8_9b", {}):
        found["fp8_over_bf16_9b"] = parts["fp8_9b"]["ratio"]
        found["fp8_9b_logprob_error"] = parts["fp8_9b"]["logprob_error"]["relative_rms"]
    if "scaled" in parts.get("fp8_111b", {}):
        slices = parts["fp8_111b"]["slices"]
        found["fp8_over_bf16_111b"] = parts["fp8_111b"]["scaled"]["ratio"]
        found["fp8_111b_logprob_error"] = slices[max(slices, key=int)]["logprob_error"][
            "relative_rms"
        ]
    for part, key in (("idle", "idle_share"), ("deterministic", "cost")):
        if key in parts.get(part, {}):
            found[f"{part}_{key}" if part == "deterministic" else key] = parts[part][key]
    return found


def _best(runs: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    timed = [run for run in runs or () if "new_tokens_per_s" in run]
    return max(timed, key=lambda run: run["new_tokens_per_s"], default=None)


TARGETS = {
    "share_of_floor": ("LFM2-1.2B, 1024 requests: share of the roofline", 0.5, "{:.0%}"),
    "over_transformers": ("over transformers generate", 10, "{:.1f}x"),
    "over_continuous": ("over transformers' continuous batching", 4, "{:.1f}x"),
    "over_continuous_llama": ("the same, Llama of 1.2B", 4, "{:.1f}x"),
    "fp8_over_bf16_9b": ("FP8 over BF16, Gemma2-9B", 2, "{:.2f}x"),
    "fp8_over_bf16_111b": ("FP8 over BF16, 111B from slices", 2, "{:.2f}x"),
    "idle_share": ("no kernel running, batch 256 (at most)", 0.03, "{:.1%}"),
}
"""Figure -> its name, its target (TARGETS are least values, but for the idle share), its form."""


def verdicts(summary: dict[str, Any]) -> dict[str, bool]:
    """Which targets were met, of those that were measured."""
    return {
        key: summary[key] <= target if key == "idle_share" else summary[key] >= target
        for key, (_, target, _) in TARGETS.items()
        if key in summary
    }


def print_tables(result: dict[str, Any], console: Console) -> None:
    """The targets, then the steps by batch size, then what failed."""
    summary, parts = result["summary"], result["parts"]
    console.print(targets_table(TARGETS, summary, verdicts(summary)), highlight=False)
    console.print(_runs(parts))
    if "steps" in parts.get("batches", {}):
        console.print(_steps(parts["batches"]["steps"]), highlight=False)
    for key, form in (
        ("deterministic_cost", "--deterministic takes {:+.1%} time"),
        ("fp8_9b_logprob_error", "FP8, 9B: log-probabilities off by {:.1%} of their spread (rms)"),
        ("fp8_111b_logprob_error", "FP8, 111B slice: off by {:.1%}"),
    ):
        if key in summary:
            console.print(form.format(summary[key]), highlight=False)
    for name, part in parts.items():
        for where, error in _errors(name, part):
            console.print(f"failed: {where}: {error}", highlight=False)
    for name in result["not_reached"]:
        console.print(f"not reached in the time: {name}", highlight=False)


def _runs(parts: dict[str, Any]) -> Table:
    table = Table(title="new tokens/s, LFM2-1.2B in bfloat16")
    for heading in ("", "at once", "requests", "new tokens/s", "of the floor", "host"):
        table.add_column(heading, justify="right")
    for run in parts.get("throughput", {}).get("runs", ()):
        requests = parts["throughput"]["workload"]["requests"]
        shares = (f"{run[key]:.0%}" for key in ("share_of_floor", "host_share"))
        rate = f"{run['new_tokens_per_s']:,.0f}"
        table.add_row("hala-engine", str(run["slots"]), str(requests), rate, *shares)
    for run in parts.get("transformers", {}).get("runs", ()):
        requests = parts["transformers"]["workload"]["requests"]
        if run["seconds"]:
            rate = f"{run['new_tokens_per_s']:,.0f}"
            table.add_row("transformers", str(run["batch"]), str(requests), rate, "", "")
    return table


def _steps(steps: list[dict[str, Any]]) -> Table:
    table = Table(title="a decode step, LFM2-1.2B in bfloat16")
    for heading in ("batch", "ms", "floor, ms", "of the floor", "new tokens/s"):
        table.add_column(heading, justify="right")
    for step in steps:
        table.add_row(
            str(step["batch"]),
            f"{1e3 * step['step_s']:.2f}",
            f"{1e3 * step['floor_s']:.2f}",
            f"{step['share_of_floor']:.0%}",
            f"{step['new_tokens_per_s']:,.0f}",
        )
    return table


def _errors(name: str, part: Any) -> list[tuple[str, str]]:
    """Every "error" in a part's result, with its place."""
    if not isinstance(part, dict):
        return []
    found = [(name, part["error"])] if "error" in part else []
    for key, value in part.items():
        found += _errors(f"{name}.{key}", value)
    return found
