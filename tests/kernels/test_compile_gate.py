"""The compile gate refuses what it should, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hala_kernels import triton_lang
from hala_kernels.compile import __main__ as command
from hala_kernels.compile import gate
from hala_kernels.compile.chips import CHIPS, TENSOR_MEMORY_COLUMNS
from hala_kernels.compile.resources import Resources, tensor_core
from tests.kernels.gate_faults import TABLES

pytestmark = pytest.mark.skipif(
    not triton_lang.AVAILABLE, reason="Triton has no build for this system"
)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "0", **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    done = python("-m", "tests.kernels.gate_faults", str(tmp_path_factory.mktemp("configs")))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


EXPECTED = {
    "spilling": r"sm_90 spilling/default [a case] _normalized: spills ",
    "shared": "B of shared memory, over 232448",
    "demanding": r"its PTX does not contain wgmma\S*e4m3",
    "refused": "does not compile: CompileTimeAssertionFailure: this tile is too small",
    "raising": "RuntimeError: no such model",
    "silent": "no launch took {'BLOCK': 1024, 'num_warps': 4}",
    "without_cases": "no case reaches {'BLOCK': 1024, 'num_warps': 4}",
    "shadowed": "no launch took {'BLOCK': 64, 'num_warps': 1}",
    "unknown_key": "unexpected keyword argument 'm'",
    "no_default": "no default.json in ",
    "broken": "broken/default.json: ",
    "device_file": "sm_90 device_file/NVIDIA_H200 [a case]: does not compile: ",
}


@pytest.mark.parametrize("table", EXPECTED)
def test_a_fault_is_one_line_that_says_where_and_what(table, faults):
    (fault,) = faults[table]
    assert EXPECTED[table] in fault and table in fault
    assert "\n" not in fault


def test_what_is_right_has_no_fault(faults):
    assert set(TABLES) - set(EXPECTED) == {"good", "satisfied"}
    assert faults["good"] == faults["satisfied"] == []


def test_a_table_that_no_operation_names_is_a_fault(faults):
    assert faults["orphans"] == ["configs/orphan: no case reaches it"]
    assert gate.orphans() == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"spilled": 4}, "spills 4 bytes"),
        ({"shared": 99 * 1024 + 1}, "over 101376"),
        ({"tensor_memory": TENSOR_MEMORY_COLUMNS + 1}, "tensor memory"),
    ],
)
def test_limits(change, word):
    used = {"registers": 255, "spilled": 0, "shared": 99 * 1024, "warps": 4, "stages": 1}
    found = gate._judge(Resources(**{**used, "tensor_core": "-", **change}), CHIPS[89])
    assert len(found) == (word is not None)
    assert word is None or word in found[0]


def test_tensor_core_instructions_are_named_with_their_types():
    ptx = """
    wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {...}
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {...}
    tcgen05.mma.cta_group::1.kind::f8f6f4 [x]
    """
    assert tensor_core(ptx) == "mma bf16, tcgen05 kind::f8f6f4, wgmma e4m3"
    assert tensor_core("add.f32") == "-"


def dies(job: gate.Job) -> gate.Report:
    os._exit(9)


def test_a_compiling_process_that_dies_is_a_fault(monkeypatch):
    monkeypatch.setattr(gate, "compile_job", dies)
    report = gate.run([gate.Job("activation", "gated_mul", 90)], 2)
    assert report.faults == ["sm_90 gated_mul: a compiling process died (out of memory?)"]


@pytest.fixture
def gate_command(monkeypatch):
    app = typer.Typer()
    app.command()(command.main)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gate, "run", lambda *_: pytest.fail("it compiled"))
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such",), "no operation is called no_such"),
        (("activation", "no_such"), "no operation is called no_such"),
        (("--arch", "91"), "unknown --arch 91: one of 89, 90, 100"),
        (("activation", "--json", "/no/such/folder/x.json"), "there is no such folder"),
    ],
)
def test_bad_arguments_exit_2_in_one_line(arguments, message, gate_command):
    result = gate_command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [("--processes", "-1"), ("--arch", "x"), ("--no-such",)])
def test_bad_options_exit_2(arguments, gate_command):
    assert gate_command(*arguments).exit_code == 2


def test_the_interpreter_is_refused(monkeypatch, gate_command):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = gate_command("activation")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: TRITON_INTERPRET is set: nothing is compiled under the interpreter. Unset it"
    ]


def test_without_triton_it_says_what_to_install(monkeypatch, gate_command):
    monkeypatch.setattr(triton_lang, "AVAILABLE", False)
    result = gate_command()
    assert result.exit_code == 2 and "pip install 'triton" in result.stderr


@pytest.mark.parametrize("faulty", [False, True])
def test_the_exit_status_is_the_verdict(faulty, monkeypatch, gate_command):
    report = gate.Report(faults=["sm_90 x: spills 8 bytes a thread"] * faulty)
    monkeypatch.setattr(gate, "run", lambda *_: report)
    result = gate_command("activation")
    assert result.exit_code == faulty
    assert ("error: sm_90 x: spills" in result.stderr) == faulty
    assert ("1 faults" in result.stdout) == faulty


def test_a_whole_run_writes_its_figures(tmp_path):
    target = tmp_path / "figures.json"
    done = python(
        "-m", "hala_kernels.compile", "gated_mul", "--arch", "89", "--processes", "1", "--json",
        str(target),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no spill, all within limits" in done.stdout and "_mul_kernel" in done.stdout
    built = json.loads(target.read_text())
    assert {b["capability"] for b in built} == {89} and {b["table"] for b in built} == {"gated_mul"}
    assert all(0 < b["resources"]["registers"] < 256 for b in built)
