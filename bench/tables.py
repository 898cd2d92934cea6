"""The README's tables as markdown, from a benchmark's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.engine_gpu import TARGETS, verdicts
from bench.plots import PEERS, origin
from bench.summary import OURS

Result = dict[str, Any]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def engine_cpu(result: Result) -> str:
    """Every peer's new tokens a second (prompt tokens for prefill), and our shares."""
    plan, rows = result["plan"], []
    workloads = result["summary"]["workloads"]
    peers = [p for p in PEERS if any(p in e["peers"] for e in workloads.values())]
    for name, entry in workloads.items():
        rates = [
            f"{entry['peers'][p]['tokens_per_s']['median']:,.0f}" if p in entry["peers"] else ""
            for p in peers
        ]
        others = (entry.get("ratio_to", {}).get(p) for p in peers if p != OURS)
        ratios = [f"{ratio:.2f}x" if ratio else "" for ratio in others]
        share = entry["peers"].get(OURS, {}).get("share_of_floor_same_rows")
        rows.append(
            [_workload(name, plan), *rates, *ratios, "" if share is None else f"{share:.0%}"]
        )
    headings = ["workload", *(PEERS[p][0] for p in peers)]
    headings += [f"against {PEERS[p][0]}" for p in peers if p != OURS]
    return markdown([*headings, "share of the GEMM floor"], rows)


def _workload(name: str, plan: Result) -> str:
    kind, _, batch = name.partition("-")
    if kind == "uniform":
        return f"{plan['prompt']} tokens in, {plan['output']} out, batch {batch}"
    if kind == "prefill":
        return f"{plan['prompt']} tokens in, 1 out, batch {batch} (prompt tokens)"
    return f"{plan['mixed_requests']} requests, 16 to 256 in, 8 to 128 out, equal memory"


def profile_cpu(result: Result) -> str:
    """Milliseconds by kind of operation."""
    columns = [
        (profile, kind)
        for profile in result["profiles"]
        for kind in ("decode", "prompts")
        if kind in profile
    ]
    totals: dict[str, float] = {}
    for profile, kind in columns:
        for name, seconds in profile[kind]["parts"].items():
            totals[name] = totals.get(name, 0.0) + seconds
    rows = [["tokens", *(str(p[kind]["tokens"]) for p, kind in columns)]]
    names = sorted(totals, key=totals.__getitem__, reverse=True)
    rows += [[name, *(_ms(p[k]["parts"].get(name, 0.0)) for p, k in columns)] for name in names]
    for key, name in (
        ("step_s", "the step"),
        ("gemm_floor_s", "its matrix products alone, by torch"),
    ):
        rows.append([name, *(_ms(p[kind][key]) for p, kind in columns)])
    rows.append(["host, outside steps", *(_ms(p["host_s"]) for p, _ in columns)])
    names = {"decode": "decode step", "prompts": "prompt pass"}
    headings = [f"{names[kind]}, batch {profile['batch']}" for profile, kind in columns]
    return markdown(["ms", *headings], rows)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def engine_scaling(result: Result) -> str:
    """Speed and memory by the size of the job."""
    rows = [
        [
            f"{row['rows']:,}",
            f"{row['job_rows_per_s']:,.0f}",
            f"{row['process_rows_per_s']:,.0f}",
            f"{row['max_rss_bytes'] / 1e9:.2f} GB",
        ]
        for row in result["summary"]["by_rows"]
    ]
    return markdown(["rows", "rows/s", "rows/s with start-up", "peak memory"], rows)


def engine_gpu(result: Result) -> str:
    """The targets, then the decode step by batch size."""
    summary = result["summary"]
    met = verdicts(summary)
    rows = [
        [
            name,
            form.format(summary[key]) if key in summary else "not measured",
            form.format(target),
            {True: "met", False: "not met", None: ""}[met.get(key)],
        ]
        for key, (name, target, form) in TARGETS.items()
    ]
    text = markdown(["", "measured", "target", ""], rows)
    steps = [
        [
            str(step["batch"]),
            _ms(step["step_s"]),
            _ms(step["floor_s"]),
            f"{step['share_of_floor']:.0%}",
            f"{step['new_tokens_per_s']:,.0f}",
        ]
        for step in result["parts"].get("batches", {}).get("steps", ())
    ]
    if steps:
        headings = ["batch", "ms a step", "floor, ms", "of the floor", "new tokens/s"]
        text += "\n\n" + markdown(headings, steps)
    return text


def kernels_gpu(result: Result) -> str:
    """Each operation's median share of its floor, and the geometric means against its peers."""
    from bench.kernels.summary import geometric_mean

    rows = []
    for operation in dict.fromkeys(row["operation"] for row in result["summary"]):
        mine = [
            row
            for row in result["summary"]
            if row["operation"] == operation and "share_of_floor" in row
        ]
        if not mine:
            continue
        shares = sorted(row["share_of_floor"] for row in mine)
        peers: dict[str, list[float]] = {}
        for row in mine:
            for peer, ratio in row["speedup_over"].items():
                peers.setdefault(peer, []).append(ratio)
        ratios = (f"{geometric_mean(r):.2f}x {peer}" for peer, r in peers.items())
        middle = shares[len(shares) // 2]
        rows.append([f"`{operation}`", f"{shares[0]:.0%}", f"{middle:.0%}", ", ".join(ratios)])
    return markdown(["operation", "least of the floor", "median", "against (mean)"], rows)


def caption(name: str, result: Result) -> str:
    return f"`{name}`: {origin(result)}"
