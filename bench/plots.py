"""The figures, one function each: from a benchmark's JSON to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.stopwatch import BATCH, HEAD, PRODUCTS, REST

Result = dict[str, Any]

# Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, BLACK, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#222222", "#888888"

PEERS = {
    "hala": ("Hala Engine", BLUE, "o"),
    "transformers": ("transformers", VERMILION, "s"),
    "llama.cpp": ("llama.cpp", GREEN, "^"),
}

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.hashsalt": "hala",
}


def engine_cpu(result: Result) -> Figure:
    """New tokens a second by batch size, and of the mixed workload."""
    workloads = result["summary"]["workloads"]
    uniform = {int(n.split("-")[1]): e for n, e in workloads.items() if n.startswith("uniform")}
    figure, (left, right) = _figure(result, 2, widths=(1.7, 1))
    ends = []
    for peer, (name, colour, marker) in PEERS.items():
        rates = {
            b: e["peers"][peer]["tokens_per_s"] for b, e in uniform.items() if peer in e["peers"]
        }
        if rates:
            batches = sorted(rates)
            median = [rates[b]["median"] for b in batches]
            errors = [
                [rates[b]["median"] - rates[b]["q1"] for b in batches],
                [rates[b]["q3"] - rates[b]["median"] for b in batches],
            ]
            left.errorbar(batches, median, errors, color=colour, marker=marker)
            ends.append((median[-1], name, colour))
    _batch_axis(left, sorted(uniform))
    left.set_ylim(bottom=0)
    _label_ends(left, max(uniform), ends)
    plan = result["plan"]
    left.set_title(f"New tokens a second, {plan['prompt']} in and {plan['output']} out")
    if mixed := workloads.get("mixed"):
        _peer_bars(right, {p: r["tokens_per_s"]["median"] for p, r in mixed["peers"].items()})
        right.set_title("Mixed lengths, equal memory")
    return figure


def _peer_bars(axes: Axes, rates: dict[str, float]) -> None:
    shown = [peer for peer in PEERS if peer in rates][::-1]
    axes.barh(
        [PEERS[p][0] for p in shown],
        [rates[p] for p in shown],
        color=[PEERS[p][1] for p in shown],
        height=0.55,
    )
    for place, peer in enumerate(shown):
        axes.annotate(f" {rates[peer]:,.0f}", (rates[peer], place), va="center")
    axes.set_xlim(0, 1.15 * max(rates.values()))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)


def step_cpu(result: Result) -> Figure:
    """Milliseconds of a decode step by batch size, beside the floors."""
    profiles = [p for p in result["profiles"] if "decode" in p]
    batches = [p["batch"] for p in profiles]
    measured = [1e3 * p["decode"]["step_s"] for p in profiles]
    products = [1e3 * p["decode"]["gemm_floor_s"] for p in profiles]
    best = max(entry["flops_per_s"] for entry in result["gemm"].values())
    flops = [1e3 * _flops(result, p["batch"]) / best for p in profiles]
    figure, (axes,) = _figure(result, 1)
    axes.plot(batches, measured, color=BLUE, marker="o")
    axes.plot(batches, products, color=GREY, marker="s", linestyle="--")
    axes.plot(batches, flops, color=GREY, linestyle=":")
    _batch_axis(axes, batches)
    axes.set_ylim(bottom=0)
    rate = f"the same at torch's\nbest, {best / 1e12:.2f} TFLOP/s"
    _label_ends(
        axes,
        batches[-1],
        [
            (measured[-1], "decode step", BLUE),
            (products[-1], "the matrix products\nalone, by torch", GREY),
            (flops[-1], rate, GREY),
        ],
    )
    axes.set_title("Milliseconds of a decode step")
    return figure


def _flops(result: Result, rows: int) -> float:
    """Of the model's matrix products for so many tokens."""
    entry = result["gemm"][str(rows)]
    return entry["flops_per_s"] * (entry["body_s"] + entry["head_s"])


KINDS = {
    PRODUCTS: BLUE,
    HEAD: SKY,
    "attention": VERMILION,
    "norms": ORANGE,
    "activation": YELLOW,
    "convolution": GREEN,
    "rotation, cache write": PURPLE,
    "sampling": BLACK,
    BATCH: "#B0B0B0",
    REST: "#7A7A7A",
}
HOST = "host, outside steps"


def profile_cpu(result: Result) -> Figure:
    """Shares of the time by kind of operation: of decode steps, and of steps with prompts."""
    rows = []
    for kind, name in (("prompts", "{tokens} prompt tokens"), ("decode", "decoding {tokens}")):
        # Batches of several sizes may fill a prompt pass alike.
        distinct = {p[kind]["tokens"]: p for p in result["profiles"][::-1] if kind in p}
        for profile in distinct.values():
            parts = profile[kind]["parts"] | {HOST: profile["host_s"]}
            total = sum(parts.values())
            label = f"{name.format(**profile[kind])}\n{1e3 * total:.1f} ms"
            rows.append((label, {k: v / total for k, v in parts.items()}))
    colours = KINDS | {HOST: "#D9D9D9"}
    shown = [kind for kind in colours if any(parts.get(kind, 0) > 0.001 for _, parts in rows)]
    figure, (axes,) = _figure(result, 1, height=1.6 + 0.55 * len(rows))
    for place, (_, parts) in enumerate(rows):
        left = 0.0
        for kind in shown:
            share = 100 * parts.get(kind, 0.0)
            axes.barh(place, share, left=left, color=colours[kind], height=0.7, edgecolor="white")
            if share >= 4:
                dark = kind in (PRODUCTS, "attention", "convolution", "sampling", REST)
                axes.annotate(
                    f"{share:.0f}",
                    (left + share / 2, place),
                    ha="center",
                    va="center",
                    color="white" if dark else BLACK,
                    fontsize=9,
                )
            left += share
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_xlim(0, 100)
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.grid(False)
    handles = [mpl.patches.Patch(color=colours[kind], label=kind) for kind in shown]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_title("Where the time of a step goes, percent")
    return figure


def engine_scaling(result: Result) -> Figure:
    """Rows a second, and peak memory, by the size of the job."""
    rows = result["summary"]["by_rows"]
    sizes = [row["rows"] for row in rows]
    figure, (left, right) = _figure(result, 2)
    job = [row["job_rows_per_s"] for row in rows]
    process = [row["process_rows_per_s"] for row in rows]
    left.plot(sizes, job, color=BLUE, marker="o")
    left.plot(sizes, process, color=SKY, marker="s")
    ends = [(job[-1], "the job", BLUE), (process[-1], "with start-up", SKY)]
    right.plot(sizes, [row["max_rss_bytes"] / 1e9 for row in rows], color=BLUE, marker="o")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("rows of the job")
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    _label_ends(left, sizes[-1], ends)
    left.set_title("Rows translated a second")
    right.set_title("Most resident memory, GB")
    return figure


def engine_gpu(result: Result) -> Figure:
    """On a GPU: new tokens a second, and milliseconds of a decode step, by batch size."""
    steps = result["parts"]["batches"]["steps"]
    batches = [step["batch"] for step in steps]
    figure, (left, right) = _figure(result, 2)
    rates = [step["new_tokens_per_s"] for step in steps]
    most = [step["batch"] / step["floor_s"] for step in steps]
    left.plot(batches, most, color=GREY, linestyle="--")
    left.plot(batches, rates, color=BLUE, marker="o")
    left.set_yscale("log")
    ends = [(rates[-1], "Hala Engine", BLUE), (most[-1], "roofline", GREY)]
    theirs = [r for r in result["parts"].get("transformers", {}).get("runs", ()) if r["seconds"]]
    if theirs:
        x = [run["batch"] for run in theirs]
        y = [run["new_tokens_per_s"] for run in theirs]
        left.plot(x, y, color=VERMILION, marker="s")
        ends.append((y[-1], "transformers\n(whole jobs)", VERMILION))
    taken, floor = ([1e3 * step[key] for step in steps] for key in ("step_s", "floor_s"))
    right.plot(batches, floor, color=GREY, linestyle="--")
    right.plot(batches, taken, color=BLUE, marker="o")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _batch_axis(axes, batches)
    _label_ends(left, batches[-1], ends)
    _label_ends(right, batches[-1], [(taken[-1], "measured", BLUE), (floor[-1], "floor", GREY)])
    left.set_title("New tokens a second, decoding")
    right.set_title("Milliseconds of a decode step")
    return figure


def kernels_gpu(result: Result) -> Figure:
    """Each kernel's shapes: the share of its floor, a dot a shape."""
    shares: dict[str, list[float]] = {}
    for row in result["summary"]:
        if "share_of_floor" in row:
            shares.setdefault(row["operation"], []).append(100 * row["share_of_floor"])
    names = sorted(shares, key=lambda name: sorted(shares[name])[len(shares[name]) // 2])
    figure, (axes,) = _figure(result, 1, height=1.4 + 0.4 * len(names))
    for place, name in enumerate(names):
        values = sorted(shares[name])
        axes.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.35, markeredgewidth=0)
        axes.plot(values[len(values) // 2], place, "|", color=BLACK, markersize=16, mew=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 105)
    axes.axvline(100, color=GREY, linewidth=1)
    axes.set_xlabel("percent of the floor; a dot a shape, a bar at the median")
    axes.set_title("Kernels against their floors")
    return figure


def _figure(
    result: Result, panels: int, widths: Sequence[float] | None = None, height: float = 3.8
) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes above a line that says where the figures are from."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(9 if panels > 1 else 7.5, height), dpi=150, layout="constrained")
    ratios = {"width_ratios": widths} if widths else None
    axes = figure.subplots(1, panels, squeeze=False, gridspec_kw=ratios)[0]
    figure.text(0.01, -0.02, origin(result), fontsize=8, color=GREY, va="top")
    return figure, axes


def origin(result: Result) -> str:
    """Device, software, commit and day of a result."""
    device = result["device"]
    name = device.get("name") or device["model"]
    if "cores" in device:
        name += f", {device['cores']} cores"
    commit = result["commit"][:7] + (" with changes" if result.get("dirty") else "")
    day = (result.get("date") or result["when"])[:10]
    return f"{name} · torch {result['versions']['torch']} · commit {commit} · {day}"


def _batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlabel("sequences at once")


LINE_HEIGHT = 1.25
"""Of a label, in units of its font size."""


def _label_ends(axes: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """The name of each line beside its last point (y, name, colour), moved apart where they would
    meet."""
    figure = axes.get_figure()
    figure.draw_without_rendering()
    to_pixels = axes.transData.transform
    size = 9
    line = LINE_HEIGHT * size * figure.dpi / 72
    reached = float("-inf")
    for y, name, colour in sorted(ends):
        height = line * (1 + name.count("\n"))
        place = to_pixels((x, y))[1]
        centre = max(place, reached + height / 2)
        reached = centre + height / 2
        axes.annotate(
            name,
            (x, y),
            xytext=(8, (centre - place) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=size,
            annotation_clip=False,
        )
