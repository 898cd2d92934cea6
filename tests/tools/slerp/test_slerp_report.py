"""What a merge says of itself: lines, JSON, and the picture."""

import json
import math
import os
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.plot import check_matplotlib, draw, make_figure
from hala_tools.slerp.report import Report, TensorReport, cosine_text
from hala_tools.slerp.sphere import LINEAR_ABOVE, Moments, combination


def tensor(
    name: str,
    cosine: float | None,
    shape: tuple[int, ...] = (10, 10),
    layer: int | None = None,
    norms: tuple[float, float] | None = (1.0, 1.5),
    method: str | None = None,
) -> TensorReport:
    near = cosine is None or abs(cosine) > LINEAR_ABOVE
    method = method or ("linear" if near else "slerp")
    return TensorReport(name, shape, "BF16", layer, 0.5, cosine, norms, (0.5, 0.5), method)


def copied(name: str, shape: tuple[int, ...]) -> TensorReport:
    return TensorReport(name, shape, "I64", None, None, None, None, None, "copied")


def report(*tensors: TensorReport, seconds: float = 2.0) -> Report:
    return Report("org/base", "/runs/tuned/final", "strict", seconds, 3_000_000_000, tensors)


MIXED = report(
    tensor("model.embed_tokens.weight", 0.99999, (7000, 100)),
    tensor("model.layers.0.mlp.up_proj.weight", 0.99, (1000, 100), layer=0),
    tensor("model.layers.1.mlp.up_proj.weight", -0.9871, (1000, 100), layer=1),
    tensor("model.layers.0.norm.weight", 1 - 2e-16, (100_000,), layer=0, norms=(2.0, 2.0)),
    copied("model.position_ids", (500,)),
)


def test_lines_say_size_speed_and_how_much_was_linear():
    assert MIXED.lines() == [
        "merged 5 tensors, 1.00 M parameters: 3.000 GB written in 2.0 s, 1.50 GB/s",
        "linear: 1 of 5 tensors, 70.0% of 1.00 M parameters, with |cosine| > 0.9995: "
        "there SLERP is a weighted mean",
        "slerp: 2 of 5 tensors, 20.0% of 1.00 M parameters, further apart: there it is not",
        "same: 1 of 5 tensors, 10.0% of 1.00 M parameters, equal in both models, to rounding",
        "copied: 1 of 5 tensors, under 0.1% of 1.00 M parameters, not floating-point, or empty",
        "lowest cosine: -0.9871 (171 degrees), model.layers.1.mlp.up_proj.weight",
    ]


def test_summary_does_not_depend_on_the_time_taken():
    slower = report(*MIXED.tensors, seconds=9.0)
    assert slower.lines() != MIXED.lines()
    assert slower.summary() == MIXED.summary()


def test_nearly_all_is_not_called_all():
    lines = report(tensor("a", 0.99999, (99_999,)), tensor("b", 0.5, (1,))).summary()
    assert "over 99.9%" in lines[0]
    assert "under 0.1%" in lines[1]


def test_a_merge_of_nothing_has_lines():
    assert report(seconds=0.0).lines()[0].startswith("merged 0 tensors, 0 parameters")


@pytest.mark.parametrize(
    ("cosine", "norms", "method", "kind"),
    [
        (LINEAR_ABOVE, (1.0, 1.0), "slerp", "slerp"),
        (-0.9999, (1.0, 1.0), "linear", "linear"),
        (1.0, (1.0, 1.0), "linear", "same"),
        (1.0, (1.0, 2.0), "linear", "linear"),
        (None, (0.0, 0.0), "linear", "same"),
        (None, (0.0, 1.0), "linear", "linear"),
        (0.0, (0.0, 0.0), "slerp", "same"),
        (None, None, "copied", "copied"),
    ],
)
def test_kind_of_a_tensor(cosine, norms, method, kind):
    assert tensor("a", cosine, norms=norms, method=method).kind == kind


def test_equal_tensors_are_seen_through_the_rounding_of_their_cosine():
    length = 3.0000001
    merged = combination(Moments(length, length, length), 0.5)
    norms = (math.sqrt(length),) * 2
    assert tensor("a", merged.cosine, norms=norms).kind == "same"


@pytest.mark.parametrize(
    ("cosine", "text"),
    [(0.5, "0.5000"), (0.98712, "0.9871"), (1 - 1.3e-7, "0.99999987"), (1.0, "1"), (-1.0, "-1")],
)
def test_cosines_are_written_so_that_they_can_be_told_from_one(cosine, text):
    assert cosine_text(cosine) == text


def test_json_begins_with_the_summary_and_ends_with_the_tensors():
    values = json.loads(json.dumps(MIXED.to_dict(), allow_nan=False))
    assert next(iter(values)) == "base"
    assert list(values)[-1] == "tensors"
    assert values["linear"] == {"tensors": 1, "parameters": 700_000}
    assert values["lowest_cosine"]["tensor"] == "model.layers.1.mlp.up_proj.weight"
    first = values["tensors"][1]
    assert first["shape"] == [1000, 100]
    assert first["degrees"] == pytest.approx(math.degrees(math.acos(0.99)))
    assert values["tensors"][-1]["cosine"] is None


def test_json_has_no_number_that_is_not_finite():
    odd = report(tensor("a", 0.5, norms=(math.inf, math.nan))).to_dict()
    assert json.loads(json.dumps(odd, allow_nan=False))["tensors"][0]["norms"] == [None, None]


def model(layers: int) -> Report:
    """A hybrid model, its tuned weights the further apart the later the layer."""
    tensors = [tensor("model.embed_tokens.weight", 0.9999)]
    for n in range(layers):
        part = "self_attn.q_proj" if n % 3 == 2 else "conv.in_proj"
        apart = 1e-5 * (n + 1)
        for name, distance in (
            (f"{part}.weight", 10 * apart),
            ("feed_forward.w1.weight", 5 * apart),
            ("feed_forward.w2.weight", 20 * apart),
            ("operator_norm.weight", 0.01 * apart),
        ):
            tensors.append(tensor(f"model.layers.{n}.{name}", 1 - distance, layer=n))
    tensors.append(tensor("model.embedding_norm.weight", 1.0, norms=(1.0, 1.0)))
    return report(*tensors, copied("model.position_ids", (3,)))


def axes_of(drawn: Report):
    return make_figure(drawn).axes[0]


def labels_of(axis) -> dict[str, float]:
    names = [label.get_text() for label in axis.get_ticklabels()]
    return dict(zip(names, axis.get_ticklocs(), strict=True))


def series_of(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_there_is_a_series_for_each_kind_of_tensor():
    named = [name for name in series_of(axes_of(model(16))) if not name.startswith("_")]
    assert named == ["conv", "feed_forward", "norms", "self_attn"]


def test_series_go_through_the_middle_tensor_of_each_layer():
    series = series_of(axes_of(model(3)))
    assert series["self_attn"] == pytest.approx([3e-4])
    assert series["norms"] == pytest.approx([1e-7, 2e-7, 3e-7], rel=1e-6)


def test_kinds_beyond_the_palette_share_a_series():
    parts = [tensor(f"h.0.part{n}.w.weight", 0.99, layer=0) for n in range(12)]
    named = [name for name in series_of(axes_of(report(*parts))) if not name.startswith("_")]
    assert named == [*(f"part{n}" for n in range(6)), "others"]


@pytest.mark.parametrize("layers", [1, 16, 42, 80])
def test_embeddings_stand_left_of_the_layers_and_the_last_norm_right(layers):
    places = labels_of(axes_of(model(layers)).xaxis)
    assert places["embed_tokens"] <= -1
    assert places["embedding_norm"] >= layers
    numbers = [int(name) for name in places if name.isdigit()]
    assert 0 in numbers and len(numbers) <= 20


def test_tensors_that_are_equal_lie_on_a_line_of_their_own():
    axes = axes_of(model(2))
    lowest = labels_of(axes.yaxis)["1"]
    assert [lowest] in series_of(axes).values()
    assert lowest < 1e-7


def test_cosines_near_one_are_apart_on_the_axis():
    axes = axes_of(model(16))
    places = labels_of(axes.yaxis)
    height = axes.transAxes.transform((0, 1))[1] - axes.transAxes.transform((0, 0))[1]
    high, low = (axes.transData.transform((0, places[name]))[1] for name in ("0.999", "0.9999"))
    assert (high - low) / height > 0.1


def test_threshold_and_models_are_named():
    axes = axes_of(model(4))
    assert any(text.get_text().startswith(str(LINEAR_ABOVE)) for text in axes.texts)
    assert axes.get_title(loc="left") == "Cosine between org/base and tuned/final"


@pytest.mark.parametrize(
    "drawn",
    [
        model(0),
        report(),
        report(copied("a", (3,))),
        report(tensor("fc.weight", -1.0), tensor("bias", 0.3)),
        Report("a$x^", "b$_$", "strict", 1.0, 1, model(1).tensors),
        report(*(tensor(f"part{n}.weight", 0.9) for n in range(30))),
    ],
    ids=["no-layers", "nothing", "copies", "opposite", "formula-in-name", "many-outside"],
)
def test_unusual_models_can_be_drawn(tmp_path, drawn):
    draw(drawn, tmp_path / "cosines.svg")
    assert ElementTree.parse(tmp_path / "cosines.svg").getroot().tag.endswith("svg")


DRAW = """
import pathlib, sys
from hala_tools.slerp.plot import draw
assert "matplotlib" not in sys.modules
from hala_tools.slerp.report import Report, TensorReport
tensors = tuple(
    TensorReport(f"h.{n}.{part}.w", (2,), "F32", n, 0.5, 0.9, (1, 2), (1, 0), "slerp")
    for n in range(3)
    for part in ("attn", "mlp")
)
draw(Report("a", "b", "strict", float(sys.argv[1]), 1, tensors), pathlib.Path(sys.argv[2]))
"""


def test_one_report_gives_the_same_picture_under_any_settings(tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: none\n")
    (tmp_path / "plain").mkdir()
    pictures = []
    for folder, seed in ((tmp_path, "1"), (tmp_path / "plain", "2")):
        command = [sys.executable, "-c", DRAW, seed, "cosines.svg"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=60)
        pictures.append((folder / "cosines.svg").read_bytes())
    assert pictures[0] == pictures[1]


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    before = dict(mpl.rcParams)
    draw(model(1), tmp_path / "cosines.svg")
    assert dict(mpl.rcParams) == before


def test_missing_matplotlib_is_said_before_the_work(monkeypatch):
    check_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="matplotlib"):
        check_matplotlib()
