"""Sources, targets and flags that cannot be used, and work that is broken off: one line that says
why, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from quantized_directories import command, convert, left_over, run, tensors
from safetensors.torch import load_file, save_file

from hala_engine.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def refused(source: Path, target: Path, scheme: str = "fp8-dynamic", ignore=()) -> str:
    with pytest.raises(InputError) as caught:
        run(source, target, scheme, ignore)
    assert "\n" not in str(caught.value)
    assert left_over(target) == []
    return str(caught.value)


def change(source: Path, name: str, new) -> Path:
    """Put new(tensor) in the place of a tensor, or remove it if that is None; returns its file."""
    for path in source.glob("*.safetensors"):
        found = load_file(path)
        if name in found:
            value = new(found.pop(name))
            save_file(found if value is None else found | {name: value}, path)
            return path
    raise KeyError(name)


LINEAR = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.1.operator_norm.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [LINEAR, NORM, EMBEDDING])
def test_a_value_that_is_not_finite(source, target, name, value):
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    path = change(source, name, spoil)
    message = refused(source, target)
    assert name in message and str(path) in message and "NaN" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_largest_values_are_finite_and_the_next_are_not(tmp_path, target, dtype, sign):
    source = tmp_path / "source"
    write_checkpoint(source)
    convert(source, dtype)
    largest = torch.finfo(dtype).max * sign

    def put(value: float):
        def new(tensor: torch.Tensor) -> torch.Tensor:
            tensor.view(-1)[0] = value
            return tensor

        return new

    change(source, EMBEDDING, put(largest))
    run(source, target)
    shutil.rmtree(target)
    change(source, EMBEDDING, put(float("inf") * sign))
    assert EMBEDDING in refused(source, target)


def test_a_missing_tensor(source, target):
    change(source, NORM, lambda tensor: None)
    assert NORM in refused(source, target)


def test_a_tensor_of_another_shape(source, target):
    path = change(source, LINEAR, lambda tensor: tensor[:-1].clone())
    message = refused(source, target)
    assert LINEAR in message and str(path) in message


def test_a_truncated_shard(source, target):
    path = sorted(source.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-10])
    assert str(path) in refused(source, target)


def test_a_quantized_source(source, target):
    once = source.with_name("once")
    run(source, once)
    assert "quantized already" in refused(once, target)


def test_nothing_left_to_quantize(source, target):
    assert "leave no linear layer" in refused(source, target, ignore=(".",))


def test_an_expression_that_is_none(source, target):
    assert "'w1(' is not a regular expression" in refused(source, target, ignore=("w1(",))


def test_an_unknown_scheme(source, target):
    assert "fp8-dynamic, fp8-block" in refused(source, target, scheme="int4")


def test_targets_that_cannot_be(source, target, tmp_path):
    for bad, reason in (
        (source, "is the source"),
        (source / ".." / "source", "is the source"),
        (tmp_path, "exists"),
        (tmp_path / "no" / "target", "there is no directory"),
    ):
        with pytest.raises(InputError, match=reason):
            run(source, bad)
    target.mkdir()
    with pytest.raises(InputError, match="exists"):
        run(source, target)
    assert list(target.iterdir()) == []


def test_a_full_disk_is_found_before_work(source, target, monkeypatch):
    from hala_engine.quantize import job

    free = 100_000
    monkeypatch.setattr(job.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    message = refused(source, target)
    assert "100,000 free" in message
    need = int(re.search(r"takes ([\d,]+) bytes", message)[1].replace(",", ""))
    monkeypatch.undo()
    run(source, target)
    written = sum(p.stat().st_size for p in target.iterdir() if p.name not in (
        "config.json", "model.safetensors.index.json"
    ))  # fmt: skip
    assert need == written


@pytest.mark.parametrize("when", ["writing", "copying", "renaming"])
def test_an_error_midway_leaves_nothing(source, target, monkeypatch, when):
    from hala_engine.quantize import job
    from hala_engine.weights.writer import SafetensorsWriter

    def fail(*args: object) -> None:
        raise OSError("No space left on device")

    if when == "writing":
        write, calls = SafetensorsWriter.write, []

        def write_some(self, *args: object) -> None:
            calls.append(args)
            if len(calls) > 20:
                fail()
            write(self, *args)

        monkeypatch.setattr(SafetensorsWriter, "write", write_some)
    elif when == "copying":
        monkeypatch.setattr(job.shutil, "copyfile", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        run(source, target)
    assert left_over(target) == []


SLOW = """
import sys, time
from hala_engine.weights.writer import SafetensorsWriter
write = SafetensorsWriter.write
def slow(self, *args):
    time.sleep(0.1)
    write(self, *args)
SafetensorsWriter.write = slow
from hala_engine.cli import main
main()
"""


def stopped_midway(source: Path, target: Path, signum: int) -> subprocess.CompletedProcess:
    """Run the command with slow writes, and stop it once a file has begun."""
    arguments = [sys.executable, "-c", SLOW, "quantize", str(source), str(target)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(target.parent.glob(f".{target.name}.partial-*/*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, stderr=stderr)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_midway_leaves_nothing(source, target, signum, code):
    stopped = stopped_midway(source, target, signum)
    assert stopped.returncode == code
    assert "nothing was written" in stopped.stderr and stopped.stderr.count("\n") == 1
    assert left_over(target) == []


def test_after_a_kill_a_rerun_works(source, target):
    assert stopped_midway(source, target, signal.SIGKILL).returncode == -signal.SIGKILL
    (partial,) = left_over(target)
    assert re.fullmatch(r"\.target\.partial-\d+", partial)
    run(source, target)
    assert tensors(target)["model.layers.0.feed_forward.w1.weight"].dtype == torch.float8_e4m3fn


def test_a_stale_directory_of_our_own_number_is_no_obstacle(source, target):
    stale = target.with_name(f".target.partial-{os.getpid()}")
    stale.mkdir()
    (stale / "model.safetensors").write_text("half")
    run(source, target)
    assert not stale.exists()
    assert not (target / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--scheme", "int8"), "--scheme int8 is not known"),
        (("--ignore", "["), "is not a regular expression"),
        (("--report", "/no/where.json"), "--report /no/where.json"),
        (("--verify", "999"), "--verify 999"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(source, target, arguments, reason):
    failed = command(source, target, *arguments)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and reason in failed.stderr
    assert left_over(target) == []
