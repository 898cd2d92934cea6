"""What a run leaves in metrics.jsonl, in TensorBoard and on stderr, and the speeds in it."""

import json
import math
import sys

import pytest
import torch

from hala_trainer import log
from hala_trainer.errors import TrainError
from hala_trainer.log import Meter, RunLog, clock, progress_line

ROW = {"step": 3, "loss": 1.5, "lr": 1e-3, "grad_norm": 0.25}


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def clock_at(monkeypatch):
    """Sets the time that a Meter sees."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(log.time, "monotonic", lambda: seconds)

    set_to(100.0)
    return set_to


def test_rows_after_the_checkpoint_are_dropped_and_a_half_line_with_them(tmp_path):
    lines = [json.dumps({"step": n, "loss": 1.0}) + "\n" for n in (1, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 2, "lo')
    first = RunLog(tmp_path, resumed_step=2, tensorboard=False)
    first.metrics({"step": 3, "loss": 2.0})
    first.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_run_from_the_start_keeps_no_row_of_one_before(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval_loss": 1}\n{"step": 1, "loss": 1}\n')
    RunLog(tmp_path, resumed_step=0, tensorboard=False).close()
    assert rows(tmp_path) == []


def test_numbers_that_are_not_finite_are_null(tmp_path):
    run = RunLog(tmp_path, tensorboard=False)
    run.metrics({"step": 1, "loss": math.nan, "grad_norm": math.inf, "lr": 0.5, "skipped": "NaN"})
    written = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(written, parse_constant=pytest.fail) == {
        "step": 1, "loss": None, "grad_norm": None, "lr": 0.5, "skipped": "NaN"
    }  # fmt: skip


def test_rows_are_on_disk_at_once(tmp_path):
    run = RunLog(tmp_path, tensorboard=False)
    run.metrics({"step": 1})
    assert rows(tmp_path) == [{"step": 1}]
    run.close()


def test_ranks_above_zero_say_and_write_nothing(tmp_path, capsys):
    run = RunLog(tmp_path, tensorboard=True, main=False)
    run.say("hello")
    run.step(ROW, 10, 60)
    run.text("sample", "text", 3)
    run.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    run = RunLog(tmp_path, tensorboard=False)
    with pytest.raises(TrainError, match=r"metrics\.jsonl: cannot write \(No space"):
        run.metrics({"step": 1})


def test_without_the_package_events_are_left_out_and_this_is_said_once(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = RunLog(tmp_path)
    run.metrics({"step": 1, "loss": 1.0})
    run.metrics({"step": 2, "loss": 1.0})
    assert capsys.readouterr().err == log.NO_TENSORBOARD + "\n"
    assert len(rows(tmp_path)) == 2


def events(out):
    from tensorboard.backend.event_processing import event_accumulator as accumulators

    found = accumulators.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    return found


def test_events_hold_the_numbers_by_kind(tmp_path):
    run = RunLog(tmp_path)
    run.step(ROW | {"skipped": "a reason"}, total=10, seconds_left=60)
    run.metrics({"step": 3, "eval_loss": 2.5})
    run.text("samples", "an answer", 3)
    run.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        "train/loss", "train/lr", "train/grad_norm", "eval/loss"
    }  # fmt: skip
    assert [(e.step, e.value) for e in found.Scalars("eval/loss")] == [(3, 2.5)]
    assert found.Tags()["tensors"] == ["samples/text_summary"]


def test_events_after_the_checkpoint_are_forgotten_on_resume(tmp_path):
    for resumed, value in ((0, 1.0), (2, 2.0)):
        run = RunLog(tmp_path, resumed_step=resumed)
        for step in range(resumed + 1, 5):
            run.metrics({"step": step, "loss": value})
        run.close()
    losses = [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_speed_is_of_all_processes_and_of_each(clock_at):
    meter = Meter(4, torch.device("cpu"), peak=1e12)
    meter.add(tokens=600, slots=800, flops=3e12)
    meter.add(tokens=600, slots=800, flops=3e12)
    clock_at(103.0)
    row = meter.read()
    assert row["tokens_per_s"] == 400 and row["tokens_per_s_per_gpu"] == 100
    assert row["tflops_per_gpu"] == row["mfu"] == 0.5
    assert row["padding"] == 0.25
    assert row["memory_gb"] > 0


def test_a_reading_starts_the_next_one(clock_at):
    meter = Meter(1, torch.device("cpu"), None)
    meter.add(100, 100, 1e12)
    clock_at(110.0)
    meter.read()
    meter.add(100, 100, 1e12)
    clock_at(111.0)
    row = meter.read()
    assert row["tokens_per_s"] == 100 and row["tflops_per_gpu"] == 1
    assert "mfu" not in row


def test_time_that_is_not_training_does_not_count(clock_at):
    meter = Meter(1, torch.device("cpu"), None)
    meter.add(100, 100, 0.0)
    clock_at(101.0)
    with meter.paused():
        clock_at(151.0)
    clock_at(152.0)
    assert meter.read()["tokens_per_s"] == 50


def test_time_left_follows_the_steps_and_is_smoothed(clock_at):
    meter = Meter(1, torch.device("cpu"), None)
    meter.add(1, 1, 0.0)
    meter.add(1, 1, 0.0)
    clock_at(104.0)
    meter.read()
    assert meter.seconds_left(10) == pytest.approx(20)
    meter.add(1, 1, 0.0)
    clock_at(111.0)  # one slow step
    meter.read()
    assert meter.seconds_left(10) == pytest.approx(30)


def test_the_progress_line_holds_everything(capsys, tmp_path):
    reading = {
        "tokens_per_s": 16000.4, "tokens_per_s_per_gpu": 2000.0, "tflops_per_gpu": 400.0,
        "mfu": 0.4044, "memory_gb": 61.23, "padding": 0.031,
    }  # fmt: skip
    RunLog(tmp_path, tensorboard=False).step(ROW | reading, total=6700, seconds_left=3725)
    assert capsys.readouterr().err == (
        "step 3/6700  loss 1.5000  lr 1.00e-03  grad 0.25  16,000 tokens/s (2,000 each)  MFU 40.4% "
        " 61.2 GB  padding 3.1%  ETA 1:02:05\n"
    )


def test_without_a_peak_the_line_gives_the_rate():
    line = progress_line(ROW | {"tflops_per_gpu": 0.1234}, 10, 0)
    assert "0.123 TFLOP/s" in line and "MFU" not in line


def test_clock_reads_minutes_and_hours():
    assert [clock(s) for s in (5, 65, 3600)] == ["0:05", "1:05", "1:00:00"]
