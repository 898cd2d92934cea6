"""Figures and tables from results: what they show is what the JSON says, and a part is no error."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from bench import plots, report, tables

RESULTS = Path(__file__).parents[2] / "bench" / "results"
FACTS = {
    "device": {"name": "NVIDIA H100 80GB HBM3"},
    "versions": {"torch": "2.11.0"},
    "commit": "0123456789abcdef",
    "dirty": False,
    "when": "2026-11-24T10:00:00+00:00",
}


def profile(batch: int, tokens: int, seconds: float) -> dict:
    parts = {"matrix products": 0.7 * seconds, "attention": 0.2 * seconds, "norms": 0.1 * seconds}
    step = {"tokens": tokens, "drawn": batch, "step_s": seconds, "parts": parts}
    return step | {"gemm_floor_s": 0.6 * seconds, "above_floor_s": 0.4 * seconds}


PROFILE = FACTS | {
    "profiles": [
        {
            "batch": n,
            "host_s": 0.001,
            "decode": profile(n, n, 0.01 * n),
            "prompts": profile(n, 64, 1),
        }
        for n in (1, 8)
    ],
    "gemm": {str(n): {"body_s": n, "head_s": 1, "flops_per_s": 1e9 * n} for n in (1, 8, 64)},
}
SCALING = FACTS | {
    "summary": {
        "by_rows": [
            {"rows": n, "process_rows_per_s": 90, "job_rows_per_s": 100, "max_rss_bytes": 4e8}
            for n in (1000, 10000)
        ]
    }
}


def gpu(**parts) -> dict:
    summary = {"share_of_floor": 0.61, "idle_share": 0.05}
    return FACTS | {"parts": parts, "summary": summary}


STEPS = [
    {
        "batch": n,
        "step_s": 2e-3,
        "floor_s": 1e-3,
        "share_of_floor": 0.5,
        "new_tokens_per_s": n / 2e-3,
    }
    for n in (1, 32)
]
KERNELS = FACTS | {
    "summary": [
        {"operation": "norm", "share_of_floor": s, "speedup_over": {"torch": r}}
        for s, r in ((0.5, 1.0), (0.9, 4.0), (0.8, 2.0))
    ]
}


def lines(figure: Figure, panel: int = 0) -> list[list[float]]:
    """The y values of each line with more than one point."""
    drawn = figure.axes[panel].get_lines()
    return [list(line.get_ydata()) for line in drawn if len(line.get_ydata()) > 1]


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join(found + [text.get_text() for text in figure.texts])


@pytest.fixture
def committed() -> dict:
    return json.loads((RESULTS / "engine_cpu.json").read_text())


def test_every_result_gives_a_figure_and_a_table(tmp_path, capsys):
    shutil.copy(RESULTS / "engine_cpu.json", tmp_path)
    for name, result in (
        ("profile_cpu", PROFILE),
        ("engine_scaling", SCALING),
        ("engine", gpu(batches={"steps": STEPS})),
        ("kernels", KERNELS),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    assert report.main(["--results", str(tmp_path), "--markdown"]) == 0
    expected = {name for entry in report.REPORTS.values() for name in entry.figures}
    assert {path.name for path in tmp_path.glob("*.png")} == expected
    for name in expected:
        image = imread(tmp_path / name)
        assert image.shape[0] > 300 and image.shape[1] > 800
        assert image[..., :3].std() > 0.02  # not blank
    printed = capsys.readouterr().out
    for name in report.REPORTS:
        assert f"`{name}`: " in printed


def test_the_same_result_gives_the_same_file(tmp_path):
    (tmp_path / "engine_scaling.json").write_text(json.dumps(SCALING))
    report.make(tmp_path)
    first = (tmp_path / "engine_scaling.png").read_bytes()
    report.make(tmp_path)
    assert (tmp_path / "engine_scaling.png").read_bytes() == first


def test_a_line_for_each_peer_at_its_medians(committed):
    figure = plots.engine_cpu(committed)
    workloads = committed["summary"]["workloads"]
    names = [name for name in workloads if name.startswith("uniform")]
    ran = [peer for peer in plots.PEERS if peer in workloads[names[0]]["peers"]]
    for values, peer in zip(lines(figure), ran, strict=True):
        medians = [workloads[n]["peers"][peer]["tokens_per_s"]["median"] for n in names]
        assert values == medians
    for peer in ran:
        assert plots.PEERS[peer][0] in texts(figure)


def test_every_figure_says_device_and_commit(committed):
    for figure in (
        plots.step_cpu(PROFILE),
        plots.profile_cpu(PROFILE),
        plots.engine_scaling(SCALING),
        plots.engine_gpu(gpu(batches={"steps": STEPS})),
        plots.kernels_gpu(KERNELS),
    ):
        assert "NVIDIA H100 80GB HBM3 · torch 2.11.0 · commit 0123456 · 2026-11-24" in texts(figure)
    changed = plots.origin(FACTS | {"dirty": True})
    assert "commit 0123456 with changes" in changed
    assert committed["device"]["model"] in plots.origin(committed)


def test_a_step_is_drawn_beside_both_floors():
    step, products, flops = lines(plots.step_cpu(PROFILE))
    assert step == pytest.approx([10, 80]) and products == pytest.approx([6, 48])
    # 1e9 n FLOP/s for n + 1 seconds, at the best rate of 64e9.
    assert flops == pytest.approx([1e3 * 1 * 2 / 64, 1e3 * 8 * 9 / 64])


def test_shares_of_a_step_add_up():
    axes = plots.profile_cpu(PROFILE).axes[0]
    widths: dict[float, float] = {}
    for bar in axes.patches:
        widths[round(bar.get_y(), 3)] = widths.get(round(bar.get_y(), 3), 0) + bar.get_width()
    assert len(widths) == 3  # the prompt passes of both batches have 64 tokens
    assert all(math.isclose(total, 100) for total in widths.values())


def test_labels_that_would_meet_are_moved_apart():
    figure, (axes,) = plots._figure(FACTS, 1)
    axes.plot([0, 1], [0, 100])
    plots._label_ends(axes, 1, [(50, "a", "k"), (50.1, "b\nb", "k"), (99, "c", "k")])
    figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent().y0, t.get_window_extent().y1) for t in axes.texts)
    assert all(upper[0] >= lower[1] - 1 for lower, upper in pairwise(boxes))


def test_gpu_result_without_steps_has_its_table_all_the_same(tmp_path):
    (tmp_path / "engine.json").write_text(json.dumps(gpu()))
    written, (text,) = report.make(tmp_path)
    assert written == []
    assert "| 61% | 50% | met |" in text and "| 5.0% | 3.0% | not met |" in text
    assert "not measured" in text


def test_readme_table_of_the_committed_result(committed):
    text = tables.engine_cpu(committed)
    rows = [row.split(" | ") for row in text.splitlines()]
    assert len({len(row) for row in rows}) == 1
    entry = committed["summary"]["workloads"]["uniform-32"]
    [row] = [row for row in rows if row[0].endswith("batch 32") and " 32 out" in row[0]]
    assert f"{entry['peers']['hala']['tokens_per_s']['median']:,.0f}" in row
    assert f"{entry['ratio_to']['transformers']:.2f}x" in row


def test_kernels_table_has_means_and_least_shares():
    assert "| `norm` | 50% | 80% | 2.00x torch |" in tables.kernels_gpu(KERNELS)


def test_a_directory_without_results_is_said_so(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path)]) == 2
    assert "no result" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        report.main(["--results", str(tmp_path / "nowhere")])
    assert stop.value.code == 2
