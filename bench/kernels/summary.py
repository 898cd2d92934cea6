"""From pytest-benchmark's samples to ratios, shares of the floor, and the tables."""

from __future__ import annotations

from collections import defaultdict
from math import exp, log
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.kernels.problem import OURS
from bench.summary import quartiles


def collect(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw`: what `pytest --benchmark-json` wrote. Every sample is kept."""
    measured, limits = [], {}
    for benchmark in raw["benchmarks"]:
        extra = benchmark["extra_info"]
        if "device_us" not in extra:
            continue
        limits = extra.pop("limits", limits)
        operation = benchmark["fullname"].split("bench_")[1].split(".py")[0]
        measured.append({"operation": operation, **extra})
    return {"limits": limits, "measured": measured, "summary": summarize(measured)}


def summarize(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each problem: times, ours against each peer, and its share of the floor."""
    problems: dict[tuple[str, str], dict[str, dict]] = defaultdict(dict)
    for entry in measured:
        problems[entry["operation"], entry["problem"]][entry["contender"]] = entry
    rows = []
    for (operation, problem), contenders in problems.items():
        us = {name: quartiles(entry["device_us"]) for name, entry in contenders.items()}
        row = {"operation": operation, "problem": problem, "us": us}
        row["floor_us"] = next(iter(contenders.values()))["floor_us"]
        if OURS in us:
            ours = us[OURS]["median"]
            row["share_of_floor"] = row["floor_us"] / ours
            row["speedup_over"] = {
                name: time["median"] / ours for name, time in us.items() if name != OURS
            }
        rows.append(row)
    return rows


def geometric_mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def print_kernels(result: dict[str, Any], console: Console) -> None:
    rows = result["summary"]
    for operation in dict.fromkeys(row["operation"] for row in rows):
        mine = [row for row in rows if row["operation"] == operation and "speedup_over" in row]
        table = Table(title=operation, box=None, header_style="bold")
        table.add_column("problem")
        for heading in ("floor us", "ours us", "of floor", "against peers"):
            table.add_column(heading, justify="left" if heading == "against peers" else "right")
        for row in mine:
            peers = (f"{name} {ratio:.2f}x" for name, ratio in row["speedup_over"].items())
            table.add_row(
                row["problem"],
                f"{row['floor_us']:.1f}",
                f"{row['us'][OURS]['median']:.1f}",
                f"{row['share_of_floor']:.0%}",
                ", ".join(peers),
            )
        console.print(table)
        console.print(_overall(operation, mine), highlight=False)


def _overall(operation: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return f"{operation}: nothing of ours was measured"
    parts = [f"of floor, median {median(row['share_of_floor'] for row in rows):.0%}"]
    for peer in dict.fromkeys(name for row in rows for name in row["speedup_over"]):
        ratios = [row["speedup_over"][peer] for row in rows if peer in row["speedup_over"]]
        parts.append(f"{geometric_mean(ratios):.2f}x {peer} (least {min(ratios):.2f}x)")
    return f"{operation}: " + "; ".join(parts)


def print_accumulation(errors: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="FP8 GEMM, relative error against float64", box=None)
    for name in errors[0] if errors else ():
        table.add_column(name, justify="right")
    for row in errors:
        table.add_row(*(f"{v:.3e}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
