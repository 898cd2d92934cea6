"""The CPU benchmark end to end on a toy model, and the arithmetic behind its figures."""

import json
from pathlib import Path

import pytest

from bench import deterministic_cpu
from bench.checkpoint import TINY, Dims
from bench.engine_cpu import REQUIRES, main
from bench.summary import OURS, floors, quartiles, summarize
from bench.workload import uniform


def test_benchmark_measures_our_engine_beside_transformers(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["--quick", "--model", "tiny", "--threads", "1", "--mixed-requests", "6"]
    arguments += ["--peers", "gemm,transformers,hala", "--json", str(target)]
    assert main([*arguments, "--cache-dir", str(tmp_path)]) == 0
    result = json.loads(target.read_text())
    assert not result["failures"]
    workloads = result["summary"]["workloads"]
    assert set(workloads) == {"uniform-1", "uniform-8", "uniform-32", "prefill-32", "mixed"}
    for entry in workloads.values():
        assert set(entry["peers"]) == {"transformers", "hala"}
        assert entry["ratio_to"]["transformers"] > 0
    assert result["device"]["cores"] >= 1
    assert {"commit", "versions", "dims", "samples"} <= set(result)


def test_the_cost_of_deterministic_output_is_measured(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["--tiny", "--repeats", "1", "--json", str(target), "--cache-dir", str(tmp_path)]
    assert deterministic_cpu.main(arguments) == 0
    models = json.loads(target.read_text())["models"]
    assert set(models) == {
        "tiny, bfloat16",
        "hala-mini-en-ar, bfloat16",
        "hala-mini-en-ar, float32",
    }
    for found in models.values():
        assert all(len(rates) == 1 and rates[0] > 0 for rates in found["tokens_per_s"].values())


def test_an_absent_peer_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(REQUIRES, "gemm", ("no_such",))
    arguments = ["--model", "tiny", "--peers", "gemm", "--repeats", "0", "--mixed-repeats", "0"]
    assert main([*arguments, "--cache-dir", str(tmp_path)]) == 0
    assert "gemm left out: no_such not installed" in capsys.readouterr().err


def test_dims_count_lfm2_350m() -> None:
    """354 M parameters: the tied embedding, and the matrices of all layers."""
    dims = Dims()
    parameters = (dims.body_flops() + dims.head_flops()) // 2
    assert parameters == pytest.approx(354e6, rel=0.005)


def test_floor_is_the_gemm_time_of_prompts_and_steps() -> None:
    workload = uniform(2, prompt=10, output=3)
    gemm = {
        2: {"body_s": 0.5, "head_s": 0.25, "flops_per_s": 1e9},
        32: {"body_s": 0.8, "head_s": 0.4, "flops_per_s": 4e9},
    }
    floor = floors(workload, TINY, gemm, slots=2)
    # 20 prompt tokens at 0.8/32 s, 2 steps of two sequences, 3 projections of two rows.
    assert floor["same_rows_s"] == pytest.approx(20 * 0.8 / 32 + 2 * 0.5 + 3 * 0.25)
    flops = 24 * TINY.body_flops() + 6 * TINY.head_flops()
    assert floor["best_rate_s"] == pytest.approx(flops / 4e9)


def test_summary_takes_medians_and_ratios() -> None:
    workload = uniform(1)
    run = {"prompt_tokens": 64, "output_tokens": 32}
    samples = [
        {"peer": peer, "kind": "uniform", "runs": {"uniform-1": {**run, "seconds": seconds}}}
        for peer, times in {OURS: (1.0, 2.0, 9.0), "transformers": (4.0, 4.0, 4.0)}.items()
        for seconds in times
    ]
    entry = summarize(samples, [(workload, 1)], TINY)["workloads"]["uniform-1"]
    assert entry["peers"][OURS]["seconds"]["median"] == 2.0
    assert entry["ratio_to"] == {"transformers": 2.0}
    assert quartiles([1.0]) == {"q1": 1.0, "median": 1.0, "q3": 1.0}
