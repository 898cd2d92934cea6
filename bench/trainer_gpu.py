"""The parts of `python -m bench.gpu trainer`, what they show beside the targets, the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.stage_parts import run_parts, targets_table
from bench.trainer_parts import PARTS

SECONDS = {
    "check": 90,
    "lfm2_2k": 110,
    "transformers": 50,
    "lfm2_4k": 80,
    "gemma_9b": 110,
    "recompute": 100,
}
"""The most that each part takes; most end sooner."""

TARGETS = {
    "mfu_1b2_2k": ("LFM2-1.2B, rows of 2048: MFU", 0.5, "{:.1%}"),
    "mfu_1b2_4k": ("LFM2-1.2B, rows of 4096 of one document: MFU", 0.5, "{:.1%}"),
    "mfu_9b": ("Gemma2-9B from slices, rows of 4096: MFU", 0.5, "{:.1%}"),
}
"""Figure -> its name, its least value, its form."""


def measure(
    out: Path,
    deadline: float,
    console: Console,
    *,
    device: str = "cuda",
    tiny: bool = False,
    only: list[str] | None = None,
) -> dict[str, Any]:
    seconds = {name: SECONDS[name] for name in only or PARTS}
    module = "bench.trainer_parts"
    return run_parts(module, seconds, out, deadline, console, device=device, tiny=tiny)


def summarize(parts: dict[str, Any]) -> dict[str, Any]:
    """The figures that the targets speak of, and the ratio to a plain loop over transformers; those
    that were not measured are left out."""
    found: dict[str, Any] = {}
    if "ok" in parts.get("check", {}):
        found["gradients_ok"] = parts["check"]["ok"]
    short, long = (parts.get(name, {}).get("runs", ()) for name in ("lfm2_2k", "lfm2_4k"))
    best = max(_timed(short), key=lambda run: run["tokens_per_s"], default=None)
    if best:
        found["tokens_per_s_1b2_2k"] = best["tokens_per_s"]
        found |= {"mfu_1b2_2k": best["mfu"]} if "mfu" in best else {}
        theirs = parts.get("transformers", {}).get("tokens_per_s")
        if theirs:
            found["over_transformers"] = best["tokens_per_s"] / theirs
    for run in _timed(long):
        key = "1b2_4k" if run["whole"] else "1b2_4k_mixed"
        found[f"tokens_per_s_{key}"] = run["tokens_per_s"]
        found |= {f"mfu_{key}": run["mfu"]} if "mfu" in run else {}
    scaled = parts.get("gemma_9b", {}).get("scaled", {})
    if scaled:
        found["tokens_per_s_9b"] = scaled["tokens_per_s"]
        found |= {"mfu_9b": scaled["mfu"]} if "mfu" in scaled else {}
    return found


def _timed(runs: Any) -> list[dict[str, Any]]:
    return [run for run in runs if "tokens_per_s" in run]


def verdicts(summary: dict[str, Any]) -> dict[str, bool]:
    """Which targets were met, of those that were measured."""
    return {k: summary[k] >= least for k, (_, least, _) in TARGETS.items() if k in summary}


def print_tables(result: dict[str, Any], console: Console) -> None:
    """The targets, then every run, then what failed."""
    summary, parts = result["summary"], result["parts"]
    console.print(targets_table(TARGETS, summary, verdicts(summary)), highlight=False)
    console.print(_runs(parts), highlight=False)
    _say_gradients(parts.get("check", {}), console)
    if "over_transformers" in summary:
        ratio = summary["over_transformers"]
        console.print(f"{ratio:.2f}x a plain loop over transformers, padded", highlight=False)
    for name, part in parts.items():
        if "error" in part:
            console.print(f"failed: {name}: {part['error']}", highlight=False)
    for name in result["not_reached"]:
        console.print(f"not reached in the time: {name}", highlight=False)


def _runs(parts: dict[str, Any]) -> Table:
    table = Table(title="hala-train: a step, forward to optimizer")
    for heading in ("", "rows of", "blocks", "kept", "documents", "tokens/s"):
        table.add_column(heading)
    for heading in ("MFU", "of GEMM rate", "peak GB", "estimate", "idle"):
        table.add_column(heading, justify="right")
    runs = [("LFM2-1.2B", r) for p in parts.values() for r in p.get("runs", ())]
    slices = parts.get("gemma_9b", {}).get("slices", {})
    runs += [(f"Gemma2-9B, {layers} layers", run) for layers, run in slices.items()]
    for name, run in runs:
        kind = (
            name,
            str(run["seq_len"]),
            "compiled" if run["compile"] else "eager",
            {"none": "all"}.get(run["recompute"], run["recompute"]),
            "whole rows" if run["whole"] else "mixed",
        )
        if "error" in run:
            table.add_row(*kind, run["error"])
            continue
        peak, ratio = run["peak_bytes"], run.get("estimate_over_peak")
        table.add_row(
            *kind,
            f"{run['tokens_per_s']:,.0f}",
            f"{run['mfu']:.1%}" if "mfu" in run else "",
            f"{run['share_of_gemm_rate']:.0%}",
            f"{peak / 1e9:.1f}" if peak else "",
            f"{ratio:.2f}x" if ratio else "",
            f"{run['split']['idle_share']:.1%}",
        )
    return table


def _say_gradients(check: dict[str, Any], console: Console) -> None:
    if "ok" not in check:
        return
    console.print(f"gradients {'as' if check['ok'] else 'NOT as'} the CPU's", highlight=False)
    for model, ways in check["models"].items():
        for way, found in ways.items():
            said = found.get("error") or (
                f"loss off by {found['loss']:.1e}, a gradient by at most {found['gradient']:.1e}"
            )
            console.print(f"  {model}, {way}: {said}", highlight=False)
    for way in check["not_reached"]:
        console.print(f"  not reached in the time: {way}", highlight=False)
