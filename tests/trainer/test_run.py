"""hala-train from end to end on a tiny model: outputs, exact resume, signals, bad steps."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from hala_trainer import loop
from hala_trainer.__main__ import run
from hala_trainer.errors import TrainError
from hala_trainer.recipe import load_recipe


def metrics(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in metrics(out) if "loss" in row]


def same_weights(a, b) -> bool:
    a, b = (load_file(d / "final" / "model.safetensors") for d in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    assert tomllib.loads((out / "config.resolved.toml").read_text())["train"]["global_batch"] == 4
    again = load_recipe(out / "config.resolved.toml", [])
    assert again == load_recipe(recipe_file, [])


def test_the_evaluation_loss_is_that_of_the_exported_model(recipe_file, tmp_path, chat_file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert run(recipe_file, ["data.eval_documents=5"], debug=True) == 0
    out = tmp_path / "run"
    model = AutoModelForCausalLM.from_pretrained(out / "final")
    tokenizer = AutoTokenizer.from_pretrained(out / "final")
    total = count = 0
    for line in chat_file.read_text().splitlines()[:5]:
        messages = json.loads(line)["messages"]
        prompt, whole = (
            tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=g)
            for m, g in ((messages[:1], True), (messages, False))
        )
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = whole[len(prompt) :].removesuffix("\n")
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt_ids + answer_ids])
        labels = ids.clone()
        labels[0, : len(prompt_ids)] = -100
        total += model(input_ids=ids, labels=labels).loss.item() * len(answer_ids)
        count += len(answer_ids)
    logged = [r["eval_loss"] for r in metrics(out) if "eval_loss" in r]
    assert logged[-1] == pytest.approx(total / count, rel=1e-5)


def test_evaluating_changes_nothing_in_training(recipe_file, tmp_path):
    often, never = tmp_path / "often", tmp_path / "never"
    assert run(recipe_file, [f"train.out={often}", "log.eval_every=1"], debug=True) == 0
    assert run(recipe_file, [f"train.out={never}", "data.eval=[]"], debug=True) == 0
    assert same_weights(often, never)


def test_final_weights_are_saved_in_the_asked_dtype(recipe_file, tmp_path):
    assert run(recipe_file, ["train.steps=1", "checkpoint.final_dtype=bfloat16"], debug=True) == 0
    final = tmp_path / "run" / "final"
    assert {t.dtype for t in load_file(final / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((final / "config.json").read_text())["dtype"] == "bfloat16"


def test_training_goes_on_from_the_weights_of_a_directory(recipe_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(recipe_file, [f"train.out={first}", "data.eval_documents=9"], debug=True) == 0
    overrides = [f"model.path={first / 'final'}", "model.init=pretrained", "data.eval_documents=9"]
    overrides += [f"train.out={second}", "train.steps=1", "optim.lr=1e-30"]
    assert run(recipe_file, overrides, debug=True) == 0
    assert same_weights(first, second)
    assert metrics(second)[-1]["eval_loss"] == metrics(first)[-1]["eval_loss"]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(
    recipe_file, tmp_path, monkeypatch, compute
):
    overrides = [f"model.compute={compute}", "train.steps=13", "checkpoint.every=100"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(recipe_file, [*overrides, f"train.out={whole}"], debug=True) == 0

    real = loop.train_step

    def step_then_signal(current, stop):
        if current.progress.step in (3, 9):  # 13 steps of 4 rows cross an epoch's end
            os.kill(os.getpid(), signal.SIGTERM)
        return real(current, stop)

    monkeypatch.setattr(loop, "train_step", step_then_signal)
    overrides.append(f"train.out={broken}")
    assert run(recipe_file, overrides, debug=True) == 143
    assert run(recipe_file, overrides, debug=True) == 143
    assert run(recipe_file, overrides, debug=True) == 0
    assert same_weights(whole, broken)
    assert losses(whole) == losses(broken)


def start(recipe_file, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "hala_trainer", str(recipe_file), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest_checkpoint(out) -> int:
    return max((int(p.name[5:]) for p in out.glob("checkpoints/step-*")), default=0)


def test_killed_at_random_and_resumed_equals_unbroken_bit_for_bit(recipe_file, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    overrides = ["train.steps=120", "checkpoint.every=3", "log.eval_every=0"]
    assert run(recipe_file, [*overrides, f"train.out={whole}"], debug=True) == 0
    overrides.append(f"train.out={broken}")
    for _ in range(3):
        before = newest_checkpoint(broken)
        process = start(recipe_file, *overrides)
        wait_for(lambda b=before: newest_checkpoint(broken) > b, process)
        time.sleep(random.Random(time.time_ns()).random() * 0.5)
        process.kill()
        process.communicate()
        assert not (broken / "final").exists()
    assert run(recipe_file, overrides, debug=True) == 0
    assert same_weights(whole, broken)
    assert losses(whole) == losses(broken)


def test_a_second_run_into_the_same_directory_is_refused_while_the_first_lives(
    recipe_file, tmp_path, capsys
):
    process = start(recipe_file, "train.steps=1000000")
    wait_for(lambda: newest_checkpoint(tmp_path / "run"), process)
    assert run(recipe_file, ["train.steps=1000000"], debug=False) == 2
    assert "another hala-train is at work there" in capsys.readouterr().err.splitlines()[-1]
    process.kill()
    process.communicate()
    step = newest_checkpoint(tmp_path / "run")
    assert run(recipe_file, [f"train.steps={step + 1}"], debug=True) == 0


def test_a_disk_too_full_for_samples_does_not_end_the_run(
    recipe_file, tmp_path, monkeypatch, capsys
):
    from hala_trainer import evaluation

    real = evaluation.save_model

    def full(current, folder):
        if folder.name == "samples.partial":
            raise TrainError(f"{folder}: cannot write the model (No space left on device)")
        real(current, folder)

    monkeypatch.setattr(evaluation, "save_model", full)
    assert run(recipe_file, ["log.samples=1"], debug=True) == 0
    assert "no samples of step 3: " in capsys.readouterr().err
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_sigint_exits_130_with_all_steps_kept(recipe_file, tmp_path):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert run(recipe_file, ["train.steps=100000", "checkpoint.every=100000"], debug=True) == 130
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{losses(tmp_path / 'run')[-1][0]}"


def test_module_stops_on_sigterm_with_143(recipe_file, tmp_path):
    process = start(recipe_file, "train.steps=1000000")
    wait_for(lambda: list((tmp_path / "run").glob("checkpoints/step-*")), process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command goes on from there" in stderr


def test_learns_a_copy_task(recipe_file, tmp_path):
    overrides = ["train.steps=150", "checkpoint.every=1000", "log.eval_every=0"]
    assert run(recipe_file, overrides, debug=True) == 0
    curve = losses(tmp_path / "run")
    assert curve[-1][1] < 0.6 * curve[0][1]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_activations_changes_nothing(recipe_file, tmp_path, recompute):
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert run(recipe_file, [f"train.out={kept}"], debug=True) == 0
    overrides = [f"train.out={again}", f"train.recompute={recompute}"]
    assert run(recipe_file, overrides, debug=True) == 0
    assert same_weights(kept, again)


def test_accumulating_micro_batches_equals_one_batch(recipe_file, tmp_path):
    """Of rows with unequal numbers of supervised tokens, by their loss, gradient and weights."""
    one, four = tmp_path / "one", tmp_path / "four"
    assert run(recipe_file, [f"train.out={one}"], debug=True) == 0
    assert run(recipe_file, [f"train.out={four}", "train.micro_batch=1"], debug=True) == 0
    for a, b in zip(metrics(one), metrics(four), strict=True):
        for key in {"loss", "grad_norm", "eval_loss"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-5), key
    a, b = (load_file(d / "final" / "model.safetensors") for d in (one, four))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def spoil_steps(monkeypatch, spoiled, factor) -> None:
    real = loop.gradient_norm
    calls = {"n": 0}

    def spoiling(parameters):
        calls["n"] += 1
        if calls["n"] in spoiled:
            for p in parameters:
                p.grad.mul_(factor)
        return real(parameters)

    monkeypatch.setattr(loop, "gradient_norm", spoiling)


def test_a_gradient_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    recipe_file, tmp_path, monkeypatch, capsys
):
    spoil_steps(monkeypatch, {5}, float("nan"))
    assert run(recipe_file, [], debug=False) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "step 5: the gradient's norm is nan" in last
    assert 'train.on_bad_step = "skip"' in last
    out = tmp_path / "run"
    assert sorted(p.name for p in (out / "checkpoints").glob("step-*")) == ["step-2", "step-4"]
    assert not (out / "final").exists()
    monkeypatch.undo()
    assert run(recipe_file, ["train.on_bad_step=skip"], debug=True) == 0  # goes on from there


def test_bad_steps_can_be_skipped_and_leave_the_weights_alone(
    recipe_file, tmp_path, monkeypatch, capsys
):
    spoil_steps(monkeypatch, {3}, float("inf"))
    assert run(recipe_file, ["train.on_bad_step=skip"], debug=True) == 0
    assert "step 3: skipped, the gradient's norm is" in capsys.readouterr().err
    rows = [r for r in metrics(tmp_path / "run") if "loss" in r]
    assert [r["step"] for r in rows if "skipped" in r] == [3]
    weights = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())


def test_too_many_bad_steps_in_a_row_stop_the_run_after_all(recipe_file, monkeypatch, capsys):
    spoil_steps(monkeypatch, {2, 3, 4}, float("nan"))
    overrides = ["train.on_bad_step=skip", "train.max_bad_steps=3"]
    assert run(recipe_file, overrides, debug=False) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "step 4" in last
    assert "3 bad steps in a row" in last


def test_samples_are_answers_of_the_engine_to_held_out_prompts(recipe_file, tmp_path):
    assert run(recipe_file, ["log.samples=2", "log.sample_tokens=5"], debug=True) == 0
    rows = [json.loads(r) for r in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 3, 6, 6]
    assert rows[0]["messages"] == [{"role": "user", "content": "say a"}]
    assert rows[0]["expected"] == "A"
    assert all(isinstance(row["answer"], str) for row in rows)
    assert not list((tmp_path / "run").glob("samples.partial*"))
