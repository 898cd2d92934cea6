"""From samples to medians, ratios, shares of the floor, and the table."""

from collections import defaultdict
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.checkpoint import Dims
from bench.workload import Workload

OURS = "hala"
PREFILL_ROWS = (32, 512)  # row counts at which the floor's rate is looked for


def quartiles(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        return {"q1": values[0], "median": values[0], "q3": values[0]}
    low, _, high = quantiles(values, n=4, method="inclusive")
    return {"q1": low, "median": median(values), "q3": high}


def gemm_medians(samples: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Row count -> medians of the GEMM-only timings over the repeats."""
    grouped: dict[int, list[dict[str, float]]] = defaultdict(list)
    for sample in samples:
        for rows, timing in sample.get("gemm", {}).items():
            grouped[int(rows)].append(timing)
    return {
        rows: {key: median(t[key] for t in timings) for key in timings[0]}
        for rows, timings in sorted(grouped.items())
    }


def floors(
    workload: Workload, dims: Dims, gemm: dict[int, dict[str, float]], slots: int
) -> dict[str, float]:
    """Least seconds the workload's GEMMs need, counted in two ways.

    `best_rate_s`: all FLOPs at the best rate seen between 32 and 512 rows.
    `same_rows_s`: prompts at that rate, decode steps at the rate of `slots` rows, which is what
    streaming the weights once a step allows.
    """
    prompt, output = (sum(lengths) for lengths in workload.lengths())
    decoded = output - workload.requests  # a sequence's first token comes from its prompt's pass
    flops = (prompt + decoded) * dims.body_flops() + output * dims.head_flops()
    wide = [t for rows, t in gemm.items() if PREFILL_ROWS[0] <= rows <= PREFILL_ROWS[1]]
    best = max(t["flops_per_s"] for t in wide)
    # The next measured row count above: a rate no worse than the true one, so a floor not too high.
    rows = min((r for r in gemm if r >= slots), default=max(gemm))
    step = gemm[rows]
    body = min(t["body_s"] / r for r, t in gemm.items())
    same = prompt * body + decoded * step["body_s"] / rows + output * step["head_s"] / rows
    return {"flops": flops, "best_rate_s": flops / best, "same_rows_s": same, "decode_rows": rows}


def summarize(
    samples: list[dict[str, Any]], workloads: list[tuple[Workload, int]], dims: Dims
) -> dict[str, Any]:
    """`workloads` pairs each workload with the number of sequences our engine holds at once."""
    gemm = gemm_medians(samples)
    summary: dict[str, Any] = {"gemm": gemm, "workloads": {}, "peers": {}}
    by_peer: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        by_peer[sample["peer"]].append(sample)
    for workload, slots in workloads:
        rows: dict[str, Any] = {}
        for peer, runs in by_peer.items():
            timed = [s["runs"][workload.name] for s in runs if workload.name in s.get("runs", {})]
            if timed:
                seconds = quartiles([t["seconds"] for t in timed])
                # A prefill workload makes one token a request; its prompt tokens are what count.
                count = "prompt_tokens" if workload.name.startswith("prefill") else "output_tokens"
                rows[peer] = {
                    "seconds": seconds,
                    "tokens_per_s": quartiles([t[count] / t["seconds"] for t in timed]),
                    "repeats": len(timed),
                }
        entry: dict[str, Any] = {"peers": rows}
        if gemm:
            entry["floor"] = floors(workload, dims, gemm, slots)
            for row in rows.values():
                for kind in ("best_rate", "same_rows"):
                    share = entry["floor"][f"{kind}_s"] / row["seconds"]["median"]
                    row[f"share_of_floor_{kind}"] = share
        if OURS in rows:
            ours = rows[OURS]["tokens_per_s"]["median"]
            entry["ratio_to"] = {
                peer: ours / row["tokens_per_s"]["median"]
                for peer, row in rows.items()
                if peer != OURS
            }
        summary["workloads"][workload.name] = entry
    for peer, runs in by_peer.items():
        started = [s for s in runs if "first_token_s" in s]
        if started:
            kinds = {s["kind"] for s in started}
            summary["peers"][peer] = {
                "first_token_s": quartiles([s["first_token_s"] for s in started]),
                "peak_rss_bytes": {
                    kind: max(s["peak_rss_bytes"] for s in started if s["kind"] == kind)
                    for kind in sorted(kinds)
                },
            }
    return summary


def print_tables(summary: dict[str, Any], console: Console) -> None:
    table = Table(
        title="tokens/s: new tokens; for prefill, prompt tokens",
        caption="of floor: GEMMs alone at the best rate of 32 to 512 rows; "
        "same rows: decode at the batch's own row count",
    )
    for heading in ("workload", "peer", "median", "quartiles", "ours is", "of floor", "same rows"):
        left = heading in ("workload", "peer")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for name, entry in summary["workloads"].items():
        for peer, row in entry["peers"].items():
            rate = row["tokens_per_s"]
            ratio = entry.get("ratio_to", {}).get(peer)
            shares = [row.get(f"share_of_floor_{k}") for k in ("best_rate", "same_rows")]
            table.add_row(
                name,
                peer,
                f"{rate['median']:.0f}",
                f"{rate['q1']:.0f}..{rate['q3']:.0f}",
                f"{ratio:.2f}x" if ratio else "",
                *(f"{share:.0%}" if share else "" for share in shares),
            )
        table.add_section()
    console.print(table)
    for peer, row in summary["peers"].items():
        peaks = (f"{kind} {size / 2**30:.2f}" for kind, size in row["peak_rss_bytes"].items())
        console.print(
            f"{peer}: load to first token {row['first_token_s']['median']:.2f} s, "
            f"peak GiB: {', '.join(peaks)}",
            highlight=False,
        )
    if summary["gemm"]:
        rates = (f"{r}: {t['flops_per_s'] / 1e9:.0f}" for r, t in summary["gemm"].items())
        console.print("bf16 GEMM, GFLOP/s by rows: " + ", ".join(rates), highlight=False)
