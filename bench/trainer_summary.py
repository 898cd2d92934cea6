"""Of `bench.trainer`: from samples to medians, ratios and shares of the floor, and the table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from bench.checkpoint import Dims
from bench.summary import quartiles

OURS, THEIRS = "hala-train", "Trainer"

TARGETS = {"mixed": 1.3, "uniform": 1.0}
"""Least ratio of our tokens a second to the Trainer's, by the lengths of the rows."""


def summarize(
    samples: list[dict[str, Any]], data: dict[str, dict[str, Any]], dims: Dims
) -> dict[str, Any]:
    rates = [g["flops_per_s"] for s in samples for g in s.get("gemm", {}).values()]
    summary: dict[str, Any] = {"gemm_flops_per_s": max(rates, default=None), "workloads": {}}
    for workload, facts in data.items():
        learnt = facts["learnt_tokens"] / facts["tokens"]
        # Of a token, forward and backward: the layers' matrices, and the output layer's if learnt.
        flops = 3 * (dims.body_flops() + learnt * dims.head_flops())
        peers = {}
        for peer in dict.fromkeys(s["peer"] for s in samples):
            mine = [
                s
                for s in samples
                if s["peer"] == peer and s["workload"] == workload and "tokens" in s
            ]
            if not mine:
                continue
            rate = quartiles([sum(s["tokens"]) / sum(s["seconds"]) for s in mine])
            padded = sum(sum(s["with_padding"]) for s in mine)
            peers[peer] = {
                "tokens_per_s": rate,
                "padding": 1 - sum(sum(s["tokens"]) for s in mine) / padded,
                "peak_rss_bytes": max(s["peak_rss_bytes"] for s in mine),
                "repeats": len(mine),
            }
            if rates:
                peers[peer]["share_of_floor"] = rate["median"] * flops / max(rates)
        entry: dict[str, Any] = {"flops_of_a_token": flops, "peers": peers}
        if OURS in peers:
            ours = peers[OURS]["tokens_per_s"]["median"]
            entry["ratio_to"] = {
                peer: ours / row["tokens_per_s"]["median"]
                for peer, row in peers.items()
                if peer != OURS
            }
            if THEIRS in peers:
                entry["target"] = TARGETS[workload]
                entry["met"] = entry["ratio_to"][THEIRS] >= TARGETS[workload]
        summary["workloads"][workload] = entry
    return summary


def print_table(summary: dict[str, Any], console: Console) -> None:
    table = Table(title="training, tokens/s without padding")
    for heading in ("lengths", "", "median", "quartiles", "ours is", "of floor", "padding", "GiB"):
        left = heading in ("lengths", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for workload, entry in summary["workloads"].items():
        for peer, row in entry["peers"].items():
            rate, ratio = row["tokens_per_s"], entry.get("ratio_to", {}).get(peer)
            table.add_row(
                workload,
                peer,
                f"{rate['median']:.0f}",
                f"{rate['q1']:.0f}..{rate['q3']:.0f}",
                f"{ratio:.2f}x" if ratio else "",
                f"{row['share_of_floor']:.0%}" if "share_of_floor" in row else "",
                f"{row['padding']:.0%}",
                f"{row['peak_rss_bytes'] / 2**30:.1f}",
            )
        table.add_section()
    console.print(table)
    for workload, entry in summary["workloads"].items():
        if "met" in entry:
            verdict = "met" if entry["met"] else "not met"
            console.print(f"{workload}: target {entry['target']}x {verdict}", highlight=False)
