"""The kernels' benchmarks, without a GPU: they run, and their arithmetic is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu, tune
from bench.kernels import summary
from bench.kernels.problem import OURS, Problem, Space
from bench.kernels.timing import Limits, Timing
from hala_kernels import activation, tuning
from hala_kernels.backend import Device

ROOT = Path(__file__).resolve().parents[2]
H100 = Device("NVIDIA H100 80GB HBM3", 90, 132)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU this is `bench.gpu kernels`")
def test_every_benchmark_runs_in_smoke_mode(tmp_path: Path) -> None:
    target = tmp_path / "smoke.json"
    done = python("-m", "pytest", "bench/kernels", f"--benchmark-json={target}")
    assert done.returncode == 0, done.stdout[-3000:]
    benchmarks = json.loads(target.read_text())["benchmarks"]
    measured = {(b["fullname"].split("bench_")[1].split(".py")[0]) for b in benchmarks}
    operations = {p.stem.removeprefix("bench_") for p in (ROOT / "bench/kernels").glob("bench_*")}
    assert measured == operations
    for operation in operations:
        contenders = {
            b["extra_info"]["contender"] for b in benchmarks if operation in b["fullname"]
        }
        assert OURS in contenders


def test_every_kernel_file_has_a_benchmark_and_a_test() -> None:
    sources = {p.stem for p in (ROOT / "kernels/hala_kernels").glob("*.py")}
    operations = sources & {p.stem for p in (ROOT / "kernels/hala_kernels/compile/cases").glob("*")}
    for name in operations - {"__init__"}:
        assert (ROOT / f"bench/kernels/bench_{name}.py").exists(), name
        assert (ROOT / f"tests/kernels/test_{name}.py").exists(), name


def entry(contender: str, us: list[float], floor: float = 8.0) -> dict:
    return {
        "operation": "norm",
        "problem": "p",
        "contender": contender,
        "device_us": us,
        "floor_us": floor,
    }


def test_summary_gives_medians_ratios_and_the_share_of_the_floor() -> None:
    (row,) = summary.summarize([entry(OURS, [9.0, 10.0, 30.0]), entry("torch", [20.0, 25.0, 21.0])])
    assert row["us"][OURS]["median"] == 10.0
    assert row["share_of_floor"] == pytest.approx(0.8)
    assert row["speedup_over"] == {"torch": pytest.approx(2.1)}
    assert summary.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_the_floor_is_the_longer_of_bytes_and_flops() -> None:
    limits = Limits(copy=1e12, bf16=1e15, fp8=2e15)
    make, contenders = (lambda device: ()), {OURS: lambda: None}
    assert limits.floor_us(Problem("b", make, contenders, bytes=10**6, flops=1)) == 1.0
    flops = Problem("f", make, contenders, bytes=1, flops=4 * 10**9, rate="fp8")
    assert limits.floor_us(flops) == pytest.approx(2.0)


def test_a_problem_without_our_contender_is_refused() -> None:
    with pytest.raises(ValueError, match="ours"):
        Problem("p", lambda device: (), {"torch": lambda: None}, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said without a GPU")
@pytest.mark.parametrize(
    "command", [("bench.gpu", "check"), ("bench.gpu", "kernels"), ("bench.tune",)]
)
def test_without_a_gpu_one_line_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    done = python("-m", *command, "--out", str(tmp_path / "results"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [done.stderr.strip()]
    assert "no CUDA device" in done.stderr


def test_an_unknown_operation_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception) as raised:
        gpu._files("tests/kernels/test_{}.py", ["no_such"])
    assert raised.value.exit_code == 2
    assert "no_such" in capsys.readouterr().err


def test_check_counts_what_passed_failed_and_was_not_reached(tmp_path: Path, monkeypatch) -> None:
    tests = tmp_path / "tests/kernels"
    tests.mkdir(parents=True)
    (tests / "test_norm.py").write_text(
        "import pytest, time\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_left_out(): pytest.skip('no')\n"
        "def test_slow(): time.sleep(60)\n"
        "def test_after(): pass\n"
    )
    monkeypatch.setattr(gpu, "REPOSITORY", tmp_path)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a script's background jobs
    try:
        counted = gpu._tests(["norm"], tmp_path, deadline=time.monotonic() + 50)
    finally:
        signal.signal(signal.SIGINT, before)
    assert counted["skipped"] == 1
    assert counted["passed"] <= 2, "pytest's report takes the interrupted test for a passed one"
    assert any("test_bad" in name for name in counted["failed"])
    assert any("not all done in time" in name for name in counted["failed"])


def test_check_runs_models_too_unless_told_which(tmp_path: Path, monkeypatch) -> None:
    for file in ("tests/kernels/test_norm.py", gpu.ENGINE_TESTS):
        assert (ROOT / file).exists()
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("def test_good(): pass\n")
    monkeypatch.setattr(gpu, "REPOSITORY", tmp_path)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    for only, passed in ((None, 2), (["norm"], 1)):
        counted = gpu._tests(only, tmp_path, deadline=time.monotonic() + 100)
        assert counted == {"passed": passed, "failed": [], "skipped": 0}


def gated_mul_problem(shape: dict[str, int]) -> Problem:
    return Problem(
        "p",
        lambda device: (torch.randn(2, 2 * shape["n"], device=device),),
        {OURS: activation.silu_mul},
        bytes=1,
    )


SPACE = Space(
    "gated_mul",
    [{"n": 100}, {"n": 300}],
    lambda shape: [{"BLOCK": 128, "num_warps": 4}, {"BLOCK": 256, "num_warps": 4}],
    gated_mul_problem,
    up_to=("n",),
)


def test_tuner_writes_the_fastest_configuration_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, triton_on_cpu: None
) -> None:
    def fake_time(run, problem, device) -> Timing:
        forced = tuning._forced.get("gated_mul")
        us = {128: 5.0, 256: 3.0}[forced["BLOCK"]] if forced else 4.0
        return Timing([us, us, us], True)

    monkeypatch.setattr(tune, "time_on_gpu", fake_time)
    usable = {
        tune._candidate("m", 0, shape, config)
        for shape in SPACE.shapes
        for config in SPACE.candidates(shape)
    }
    entries = list(tune._tune(SPACE, usable, torch.device("cpu"), deadline=float("inf")))
    assert [e["up_to"] for e in entries] == [{"n": 100}, {"n": 300}]
    assert all(e["config"]["BLOCK"] == 256 for e in entries)
    tune._write(tmp_path, SPACE, H100, entries)
    table = tuning.load(tmp_path / "gated_mul" / "NVIDIA_H100_80GB_HBM3.json")
    assert table.find({"n": 250}).config == {"BLOCK": 256, "num_warps": 4}
    assert table.find({"n": 5000}).config == tuning.lookup("gated_mul", H100, n=5000)
    assert "NVIDIA H100" in table.source


def test_tuner_drops_a_candidate_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], triton_on_cpu: None
) -> None:
    def wrong_when_forced(x: torch.Tensor) -> torch.Tensor:
        return activation.silu_mul(x) * (2 if "gated_mul" in tuning._forced else 1)

    def problem(shape: dict[str, int]) -> Problem:
        return Problem("p", gated_mul_problem(shape).make, {OURS: wrong_when_forced}, 1)

    monkeypatch.setattr(tune, "time_on_gpu", lambda *_: Timing([1.0, 1.0], True))
    space = Space("gated_mul", [{"n": 100}], SPACE.candidates, problem)
    usable = {tune._candidate("m", 0, {"n": 100}, c) for c in space.candidates({"n": 100})}
    assert list(tune._tune(space, usable, torch.device("cpu"), deadline=float("inf"))) == []
    assert "wrong" in capsys.readouterr().out


@pytest.fixture
def triton_on_cpu():
    from hala_kernels import backend, triton_lang

    if not triton_lang.AVAILABLE:
        pytest.skip("Triton has no build for this system")
    with backend.forced("triton"):
        yield


def test_spaces_name_tables_that_exist_and_give_candidates() -> None:
    found = tune.spaces()
    assert found
    for name, (_, _, space) in found.items():
        assert (tuning.CONFIGS / name / "default.json").exists(), name
        for shape in space.shapes:
            assert set(space.where) | set(space.up_to) <= set(shape)
            assert 0 < len(space.candidates(shape)) <= 32
            tuning.table_for(name, H100).find(shape)


COMPILE_AHEAD = """
import sys
from bench import tune
from hala_kernels.backend import Device
device = Device("NVIDIA H100 80GB HBM3", 90, 132)
for name, (module, i, space) in tune.spaces().items():
    shape = space.shapes[0]
    faults = []
    for config in space.candidates(shape)[:2]:
        candidate = tune._candidate(module, i, shape, config)
        faults.append(tune.compile_ahead(candidate, device)[1])
    print(name, faults)
    if all(faults):
        sys.exit(f"{name}: no candidate compiles: {faults}")
"""


def test_the_tuner_compiles_candidates_of_every_space_ahead() -> None:
    done = python("-c", COMPILE_AHEAD, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-2000:]
