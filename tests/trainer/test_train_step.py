"""What a step does, beside plain PyTorch; what a run takes up again; how processes stop."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from hala_trainer import loop
from hala_trainer.__main__ import run as command
from hala_trainer.distributed import processes
from hala_trainer.errors import Stopped
from hala_trainer.model import loading
from hala_trainer.model.packed import Inputs
from hala_trainer.optim import learning_rate
from hala_trainer.recipe import load_recipe
from hala_trainer.run import set_up
from tests.trainer.forked_ranks import on_ranks

CPU = torch.device("cpu")


@pytest.fixture
def alone():
    with processes("cpu") as group:
        yield group


def recipe_of(recipe_file, *overrides):
    return load_recipe(recipe_file, ["log.tensorboard=false", *overrides])


def logged(out) -> list[dict]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]


def final_weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def test_steps_equal_those_of_plain_pytorch(recipe_file, alone):
    """A large eps makes the size of the gradient matter, which AdamW would else divide out."""
    overrides = ["optim.eps=0.1", "optim.clip=0.5", "optim.betas=[0.8, 0.7]", "optim.lr=0.1"]
    overrides += ["optim.warmup_steps=1", "train.steps=3", "train.micro_batch=2", "data.eval=[]"]
    r = recipe_of(recipe_file, *overrides)
    run = set_up(r, alone)
    plain = loading.build(run.model.config, "float32")
    loading.fill(plain, None, r.model, CPU)
    masters = dict(plain.named_parameters())
    by_shape = [
        [p for p in masters.values() if (p.ndim == 2) is matrix] for matrix in (True, False)
    ]
    groups = [{"params": by_shape[0], "weight_decay": 0.1}, {"params": by_shape[1]}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.7), eps=0.1, weight_decay=0)

    steps, tokens = [], 0
    next_step = run.rows.next_step
    run.rows.next_step = lambda *arguments: steps.append(next_step(*arguments)) or steps[-1]
    judged, metered = [], []
    run.health.fault = lambda *numbers: judged.append(numbers)
    run.meter.add = lambda *numbers: metered.append(numbers)
    stop = loop.StopFlag()
    for step in (1, 2, 3):
        row = loop.train_step(run, stop)
        (first, second) = steps[-1]
        supervised = int(first.supervised.sum() + second.supervised.sum())
        loss = sum(plain(Inputs.of(batch, CPU)) for batch in (first, second)) / supervised
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), 0.5)
        assert norm > 0.5
        rate = learning_rate(step, 3, r.optim)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert row["step"] == run.progress.step == step
        assert row["lr"] == rate
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert judged[-1] == (step, row["loss"], row["grad_norm"])
        real = first.real_tokens + second.real_tokens
        assert metered[-1][:2] == (real, first.ids.size + second.ids.size)
        tokens += real
        assert run.progress.tokens == tokens
    for name, parameter in run.parameters.items():
        ours = parameter.detach().full_tensor()
        torch.testing.assert_close(ours, masters[name].detach(), rtol=1e-4, atol=1e-6, msg=name)
    assert rate == 0


def test_a_run_takes_up_all_that_it_left(recipe_file, alone):
    first = set_up(recipe_of(recipe_file, "train.steps=4"), alone)
    loop.train(first)
    first.close()
    later = set_up(recipe_of(recipe_file, "train.steps=9", "train.on_bad_step=skip"), alone)
    assert later.progress == first.progress
    assert later.progress.seconds > 0
    assert later.rows.position == first.rows.position
    assert later.health.state() == first.health.state()
    assert len(later.health.recent) == 4
    later.progress.seconds = 1000.0
    loop.train(later)
    assert later.progress.seconds > 1000
    assert [row["step"] for row in logged(first.recipe.out)] == list(range(1, 10))


def test_skipped_steps_change_no_weight_and_are_logged_though_no_row_is_due(
    recipe_file, alone, monkeypatch
):
    overrides = ["log.every=100", "train.steps=5", "data.eval=[]"]
    run = set_up(recipe_of(recipe_file, *overrides), alone)
    before = {name: p.detach().full_tensor().clone() for name, p in run.parameters.items()}
    fault = "the loss is nan"
    monkeypatch.setattr(run.health, "fault", lambda step, *_: fault if step < 5 else None)
    weights = []
    real = loop.train_step

    def watched(*arguments):
        row = real(*arguments)
        weights.append({name: p.detach().full_tensor() for name, p in run.parameters.items()})
        return row

    monkeypatch.setattr(loop, "train_step", watched)
    loop.train(run)
    rows = logged(run.recipe.out)
    assert [row.get("skipped") for row in rows] == [fault] * 4 + [None]
    assert all(torch.equal(before[name], weights[3][name]) for name in before)
    norms = [row["grad_norm"] for row in rows]
    assert norms[4] < 2 * norms[0]  # no gradient of a skipped step is left in it


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_granted_after_the_step(recipe_file, alone, signum, code, monkeypatch):
    run = set_up(recipe_of(recipe_file, "train.steps=9", "checkpoint.every=100"), alone)
    real = loop.train_step

    def signalled(current, stop):
        if current.progress.step == 2:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)  # a terminal and the launcher may both send it
        return real(current, stop)

    monkeypatch.setattr(loop, "train_step", signalled)
    with pytest.raises(Stopped) as stopped:
        loop.train(run)
    assert stopped.value.exit_code == code
    assert [p.name for p in (run.recipe.out / "checkpoints").iterdir()] == ["step-3"]


def test_a_signal_during_the_last_step_leaves_a_finished_run(recipe_file, alone, monkeypatch):
    run = set_up(recipe_of(recipe_file, "train.steps=2"), alone)
    real = loop.train_step

    def signalled(current, stop):
        if current.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(current, stop)

    monkeypatch.setattr(loop, "train_step", signalled)
    loop.train(run)
    assert (run.recipe.out / "final" / "model.safetensors").is_file()


def test_checkpoints_appear_while_training_goes_on(recipe_file, alone, monkeypatch):
    run = set_up(recipe_of(recipe_file, "checkpoint.every=100", "data.eval=[]"), alone)
    run.checkpoints.save(run.state(), 1)
    run.checkpoints._pending.written.result()
    real = loop.train_step
    seen = []

    def watched(*arguments):
        seen.append(run.checkpoints.steps())
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", watched)
    loop.train(run)
    assert seen[:2] == [[], [1]]


def stopped_by_one(p, recipe) -> dict:
    """SIGTERM reaches the second process alone."""
    run = set_up(recipe, p)
    real = loop.train_step

    def signalled(current, stop):
        if current.progress.step == 2 and p.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(current, stop)

    loop.train_step = signalled
    try:
        loop.train(run)
    except Stopped as stopped:
        return {"step": run.progress.step, "code": stopped.exit_code, "row": run.progress.tokens}
    return {}


def test_processes_stop_together_when_one_is_told_to(recipe_file, tmp_path):
    r = recipe_of(recipe_file, "train.steps=9", "train.micro_batch=2", "checkpoint.every=100")
    one, other = on_ranks(2, stopped_by_one, r)
    assert one == other
    assert (one["step"], one["code"]) == (3, 143)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]


def trained(p, recipe) -> None:
    loop.train(set_up(recipe, p))


def test_the_same_run_of_two_processes_gives_the_same_bits(recipe_file, tmp_path):
    overrides = ["train.micro_batch=1", "model.compute=bfloat16", "train.steps=4", "data.eval=[]"]
    for name in ("one", "two"):
        r = recipe_of(recipe_file, *overrides, f"train.out={tmp_path / name}")
        on_ranks(2, trained, r)
    ours, theirs = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = [
        [(r["step"], r["loss"], r["grad_norm"]) for r in logged(tmp_path / n)]
        for n in ("one", "two")
    ]
    assert rows[0] == rows[1]


def test_a_second_signal_before_training_changes_nothing(recipe_file, monkeypatch):
    def signalled_twice(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("hala_trainer.run.set_up", signalled_twice)
    assert command(recipe_file, [], debug=False) == 130


def test_running_out_of_gpu_memory_says_what_to_change(recipe_file, monkeypatch, capsys):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(loop, "train_step", out_of_memory)
    assert command(recipe_file, [], debug=False) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "out of GPU memory (CUDA out of memory); lower train.micro_batch" in last


def test_an_unforeseen_error_is_one_line_and_exit_code_1(recipe_file, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("something\nodd")

    monkeypatch.setattr(loop, "train_step", broken)
    assert command(recipe_file, [], debug=False) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "hala-train: RuntimeError: something odd"
