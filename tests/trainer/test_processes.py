"""Several processes train the same model as one: `hala-train --nproc 2` and torchrun."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hala_trainer.__main__ import run

TIMEOUT = 240


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "hala_trainer", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=TIMEOUT)
    return process.returncode, said


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def assert_close(a, b) -> None:
    """The same losses, gradients and weights, to float32 rounding."""
    for x, y in zip(rows(a), rows(b), strict=True):
        assert x["step"] == y["step"]
        for key in {"loss", "grad_norm", "eval_loss"} & x.keys():
            assert x[key] == pytest.approx(y[key], rel=1e-5), key
    ours, theirs = weights(a), weights(b)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one_does(recipe_file, tmp_path):
    """With unequal numbers of supervised tokens on them, and half a step at the epoch's end."""
    one, two, four = tmp_path / "one", tmp_path / "two", tmp_path / "four"
    overrides = ["train.micro_batch=1", "train.steps=17"]
    assert run(recipe_file, [*overrides, f"train.out={one}"], debug=True) == 0
    code, said = end(start("--nproc", 2, recipe_file, *overrides, f"train.out={two}"))
    assert code == 0, said
    assert "(2 x 2 x 1)" in said
    assert said.count("done: 17 steps") == 1  # rank 0 speaks for all
    assert_close(one, two)
    overrides[0] = "train.micro_batch=4"
    assert run(recipe_file, [*overrides, f"train.out={four}"], debug=True) == 0
    assert_close(one, four)
    assert rows(one)[-2]["tokens"] == rows(two)[-2]["tokens"]


def test_a_run_of_two_is_resumed_on_one_and_the_other_way_round(recipe_file, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    overrides = ["train.micro_batch=2", "optim.schedule=constant", "data.eval=[]"]
    assert run(recipe_file, [*overrides, "train.steps=9", f"train.out={whole}"], debug=True) == 0
    overrides.append(f"train.out={broken}")
    code, said = end(start("--nproc", 2, recipe_file, *overrides, "train.steps=3"))
    assert code == 0, said
    assert run(recipe_file, [*overrides, "train.steps=6"], debug=True) == 0
    code, said = end(start("--nproc", 2, recipe_file, *overrides, "train.steps=9"))
    assert code == 0, said
    assert "resumed from step 6" in said
    assert_close(whole, broken)


def test_killed_on_two_processes_and_resumed_is_bit_identical(recipe_file, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    overrides = ["train.micro_batch=2", "train.steps=60", "checkpoint.every=4", "data.eval=[]"]
    code, said = end(start("--nproc", 2, recipe_file, *overrides, f"train.out={whole}"))
    assert code == 0, said
    process = start("--nproc", 2, recipe_file, *overrides, f"train.out={broken}")
    deadline = time.monotonic() + TIMEOUT
    while not list(broken.glob("checkpoints/step-8")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[1]), signal.SIGKILL)  # a worker dies, as of memory
    code, said = end(process)
    assert code == 128 + signal.SIGKILL
    assert said.splitlines()[-1].startswith("hala-train: process 1 was ended by SIGKILL")
    assert not (broken / "final").exists()
    code, said = end(start("--nproc", 2, recipe_file, *overrides, f"train.out={broken}"))
    assert code == 0, said
    ours, theirs = weights(whole), weights(broken)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [[(r["step"], r["loss"]) for r in rows(out)] for out in (whole, broken)]
    assert losses[0] == losses[1]


def test_sigterm_to_the_launcher_saves_and_exits_with_143(recipe_file, tmp_path):
    overrides = ["train.micro_batch=2", "train.steps=1000000", "checkpoint.every=1000000"]
    process = start("--nproc", 2, recipe_file, *overrides)
    out = tmp_path / "run"
    deadline = time.monotonic() + TIMEOUT
    while not (out / "metrics.jsonl").exists() or not rows(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert code == 143
    assert said.count("the same command goes on from there") == 1
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{[r for r in rows(out) if 'loss' in r][-1]['step']}"


def test_torchrun_does_as_nproc(recipe_file, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "hala_trainer", str(recipe_file), "train.micro_batch=2", "train.steps=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.global_batch=3", "train.micro_batch=1"], "train.global_batch = 3 is no multiple"),
        (["data.train=/nowhere.jsonl"], "/nowhere.jsonl: no such data file"),
        (["model.path=/nowhere"], "no model directory at /nowhere"),
    ],
)
def test_bad_input_is_one_line_whatever_the_number_of_processes(recipe_file, overrides, said):
    code, stderr = end(start("--nproc", 2, recipe_file, "train.micro_batch=2", *overrides))
    assert code == 2
    (line,) = [line for line in stderr.splitlines() if line.startswith("hala-train")]
    assert said in line
