"""The picture of a merge: how far apart the two models are, layer by layer."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.files import sync
from hala_tools.slerp.report import Report, TensorReport
from hala_tools.slerp.sphere import LINEAR_ABOVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#222222", "#777777"
PALE, PALER = "#E6E6E6", "#F6F6F6"

SERIES = [(BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (ORANGE, "D"), (PURPLE, "v"), (SKY, "P")]
"""Colour and marker of the kinds of tensor, in the order in which they come."""

STYLE = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "svg.hashsalt": "hala-slerp",
    # A dollar sign in a name would begin a formula.
    "text.parse_math": False,
}

RESOLVED = 1e-8
"""Of 1 - cosine: about what rounding leaves where products are summed in float32."""

SIDE_SHOWN = 4
"""Names at one side of the layers; further ones share a place."""

OTHERS = "others"
TITLE_WIDTH = 90


def check_matplotlib() -> None:
    """Raises InputError where `draw` could not work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plot needs matplotlib, which is not installed: pip install it")


def draw(report: Report, path: Path) -> None:
    """Write the cosine of every tensor, by layer, as SVG. The same report gives the same bytes."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        make_figure(report).savefig(path, format="svg", metadata={"Date": None})
    sync(path)


def make_figure(report: Report) -> Figure:
    """Of each kind of tensor a line through the middle one of every layer, with a bar from the
    nearest to the furthest; tensors outside the layers at the sides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.add_subplot()
    compared = [tensor for tensor in report.tensors if tensor.cosine is not None]
    lowest = _distance_axis(axes, compared)
    inside = [tensor for tensor in compared if tensor.layer is not None]
    outside = [tensor for tensor in compared if tensor.layer is None]
    layers = 1 + max((tensor.layer for tensor in inside), default=-1)
    _draw_layers(axes, inside, lowest, layers)
    _draw_sides(axes, outside, lowest, layers)
    _draw_threshold(axes)
    if inside:
        figure.legend(loc="outside lower center", ncols=7, frameon=False)
    axes.set_title(_title(report), loc="left")
    return figure


def _distance_axis(axes: Axes, tensors: list[TensorReport]) -> float:
    """A logarithmic axis of 1 - cosine, labelled with cosines. Returns where a cosine of 1 lies."""
    distances = [_distance(tensor) for tensor in tensors]
    apart = [distance for distance in distances if distance]
    low, high = min([*apart, 1 - LINEAR_ABOVE]), max([*apart, 1 - LINEAR_ABOVE])
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    stride = math.ceil(len(decades) / 8)
    ticks = [step * 10.0**decade for decade in decades[::stride] for step in steps]
    labels = {tick: f"{1 - tick:.10g}" for tick in ticks if low / 2 < tick < 2 * high}
    if high > 1:
        labels[2.0] = "-1"
    one = low / 4
    if len(apart) < len(distances):
        labels[one] = "1"
    axes.set_yscale("log")
    axes.set_ylim(min(labels | {low: ""}) / 1.6, 1.8 * high)
    axes.set_yticks(list(labels), list(labels.values()), minor=False)
    axes.set_yticks([], minor=True)
    axes.grid(axis="y")
    axes.set_ylabel("cosine (higher up is further apart)")
    return one


def _distance(tensor: TensorReport) -> float:
    distance = 0.0 if tensor.kind == "same" else 1 - tensor.cosine
    return distance if distance > RESOLVED else 0.0


def _draw_layers(axes: Axes, tensors: list[TensorReport], lowest: float, count: int) -> None:
    names = list(dict.fromkeys(map(_kind, tensors)))[: len(SERIES)]
    looks = dict(zip(names, SERIES, strict=False)) | {OTHERS: (GREY, "X")}
    kinds: dict[str, dict[int, list[float]]] = {name: {} for name in looks}
    for tensor in tensors:
        layers = kinds[_kind(tensor) if _kind(tensor) in names else OTHERS]
        layers.setdefault(tensor.layer, []).append(max(_distance(tensor), lowest))
    kinds = {kind: layers for kind, layers in kinds.items() if layers}
    size = 5 if count <= 24 else 3.5
    for place, (kind, layers) in enumerate(kinds.items()):
        colour, marker = looks[kind]
        # Kinds stand side by side, so that their bars do not cover each other.
        shift = 0.5 * (place - (len(kinds) - 1) / 2) / len(kinds)
        numbers = sorted(layers)
        x = [number + shift for number in numbers]
        axes.vlines(
            x,
            [min(layers[number]) for number in numbers],
            [max(layers[number]) for number in numbers],
            color=colour,
            alpha=0.4,
            linewidth=2,
        )
        middle = [median_low(layers[number]) for number in numbers]
        axes.plot(x, middle, color=colour, marker=marker, markersize=size, linewidth=1, label=kind)


def _kind(tensor: TensorReport) -> str:
    """The part of its layer that the tensor belongs to: self_attn, mlp, conv; all norms are one."""
    inside = re.split(rf"\.{tensor.layer}\.", tensor.name, maxsplit=1)[-1]
    parts = inside.split(".")[:-1] or [inside]
    return "norms" if re.search(r"norm|^ln_", parts[-1]) else parts[0]


def _draw_sides(axes: Axes, tensors: list[TensorReport], lowest: float, layers: int) -> None:
    """Embeddings left of the layers, the rest right of them, each under its name."""
    sides: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for tensor in tensors:
        name = tensor.name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
        # LFM2 calls its last norm embedding_norm.
        side = sides[bool(re.search("embed|wte|wpe", name)) and "norm" not in name]
        name = name if name in side or len(side) < SIDE_SHOWN else OTHERS
        side.setdefault(name, []).append(max(_distance(tensor), lowest))
    unit = max(1.0, layers / 16)
    places = [(-unit * (1 + i), *item) for i, item in enumerate(sides[True].items())]
    places += [(layers - 1 + unit * (1 + i), *item) for i, item in enumerate(sides[False].items())]
    for x, _, values in places:
        axes.plot([x] * len(values), values, color=BLACK, marker="o", markersize=5, linewidth=1)
    step = next((step for step in (1, 2, 5, 10, 20, 50) if layers <= 20 * step), layers)
    numbers = range(0, layers, step)
    ticks = [*numbers, *(x for x, _, _ in places)]
    axes.set_xticks(ticks, [*map(str, numbers), *(name for _, name, _ in places)])
    for label, (x, _, _) in zip(axes.get_xticklabels()[len(numbers) :], places, strict=True):
        side = ("right", 45) if x < 0 else ("left", -45)
        label.set(ha=side[0], rotation=side[1], rotation_mode="anchor")
    ends = [*ticks, 0, layers - 1]
    axes.set_xlim(min(ends) - unit, max(ends) + unit)
    if layers:
        _write_below(axes, "layer", (layers - 1) / 2)


def _write_below(axes: Axes, text: str, x: float) -> None:
    """Nearer than an axis label, which would stand below the slanted names."""
    axes.annotate(
        text,
        (x, 0),
        xytext=(0, -20),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        va="top",
        color=BLACK,
        annotation_clip=False,
    )


def _draw_threshold(axes: Axes) -> None:
    distance = 1 - LINEAR_ABOVE
    axes.axhspan(axes.get_ylim()[0], distance, color=PALER, zorder=0)
    axes.axhline(distance, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"{LINEAR_ABOVE}\nbelow, SLERP is\na weighted mean",
        (1.01, distance),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        color=GREY,
        fontsize=9,
        annotation_clip=False,
    )


def _title(report: Report) -> str:
    # Of a path, two parts: "final" alone would say little. That leaves hub ids as they are.
    base, tuned = (str(Path(*Path(model).parts[-2:])) for model in (report.base, report.tuned))
    if base == tuned:
        base, tuned = report.base, report.tuned
    words = f"Cosine between {base}", f"and {tuned}"
    return (" " if sum(map(len, words)) < TITLE_WIDTH else "\n").join(words)
