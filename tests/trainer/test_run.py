"""hala-train from end to end on a tiny model: outputs, exact resume, signals."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from hala_trainer.__main__ import run
from hala_trainer.config import load_recipe
from hala_trainer.errors import Stopped
from hala_trainer.loop import train
from hala_trainer.run import set_up


@pytest.fixture(autouse=True)
def restored_signals():
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


def metrics(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in metrics(out) if "loss" in row]


def test_a_run_leaves_model_checkpoints_metrics_and_recipe(recipe_file, tmp_path, tokenizer):
    assert run(recipe_file, [], debug=True) == 0
    out = tmp_path / "run"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "final")
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == 7
    loaded = AutoTokenizer.from_pretrained(out / "final")
    assert loaded.chat_template == tokenizer.chat_template
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-4", "step-6"]
    assert [s for s, _ in losses(out)] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in metrics(out) if "eval_loss" in r] == [3, 6]
    assert tomllib.loads((out / "config.resolved.toml").read_text())["train"]["rows"] == 4


def test_final_weights_are_saved_in_the_asked_dtype(recipe_file, tmp_path):
    assert run(recipe_file, ["train.steps=1", "checkpoint.final_dtype=bfloat16"], debug=True) == 0
    final = tmp_path / "run" / "final"
    assert {t.dtype for t in load_file(final / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((final / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(
    recipe_file, tmp_path, monkeypatch, compute
):
    overrides = [f"model.compute={compute}", "train.steps=13", "checkpoint.every=100"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(recipe_file, [*overrides, f"train.out={whole}"], debug=True) == 0

    from hala_trainer import loop

    real = loop.train_step

    def step_then_signal(current):
        row = real(current)
        if row["step"] in (3, 10):  # 13 steps of 4 rows cross an epoch's end
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    monkeypatch.setattr(loop, "train_step", step_then_signal)
    overrides.append(f"train.out={broken}")
    assert run(recipe_file, overrides, debug=True) == 143
    assert run(recipe_file, overrides, debug=True) == 143
    assert run(recipe_file, overrides, debug=True) == 0
    a, b = (load_file(d / "final" / "model.safetensors") for d in (whole, broken))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses(whole) == losses(broken)


def test_killed_run_goes_on_from_the_last_checkpoint(recipe_file, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(recipe_file, [f"train.out={whole}"], debug=True) == 0

    from hala_trainer import loop

    real = loop.train_step

    def die_at_four(current):
        if current.progress.step == 3:
            raise RuntimeError("as if killed")
        return real(current)

    monkeypatch.setattr(loop, "train_step", die_at_four)
    assert run(recipe_file, [f"train.out={broken}"], debug=False) == 1
    monkeypatch.setattr(loop, "train_step", real)
    assert run(recipe_file, [f"train.out={broken}"], debug=True) == 0
    assert losses(whole) == losses(broken)


def test_sigint_exits_130(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["train.steps=100000"])
    current = set_up(recipe)
    import threading

    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Stopped) as stopped:
        train(current)
    assert stopped.value.exit_code == 130
    assert (tmp_path / "run" / "checkpoints" / f"step-{current.progress.step}").is_dir()


def test_module_stops_on_sigterm_with_143(recipe_file, tmp_path):
    command = [sys.executable, "-m", "hala_trainer", str(recipe_file), "train.steps=1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    out = tmp_path / "run"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(out.glob("checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command goes on from there" in stderr


def test_learns_a_copy_task(recipe_file, tmp_path):
    overrides = ["train.steps=150", "checkpoint.every=1000", "log.eval_every=0"]
    assert run(recipe_file, overrides, debug=True) == 0
    curve = losses(tmp_path / "run")
    assert curve[-1][1] < 0.6 * curve[0][1]
