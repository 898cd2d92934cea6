"""The benchmark of training on the CPU end to end on a toy model, and the arithmetic behind it."""

import json

import numpy as np
import pytest

from bench import trainer
from bench.checkpoint import TINY
from bench.trainer_summary import OURS, THEIRS, summarize
from bench.training_job import mixed_lengths, read_metrics, write_model, write_rows
from hala_trainer.config import DataConfig, SourceConfig
from hala_trainer.data.documents import load_corpus
from hala_trainer.model.loading import load_tokenizer


def test_our_trainer_is_measured_beside_the_floor(tmp_path):
    target = tmp_path / "result.json"
    arguments = ["--tiny", "--peers", f"gemm;{OURS}", "--json", str(target)]
    assert trainer.main(arguments) == 0
    result = json.loads(target.read_text())
    assert not result["failures"]
    workloads = result["summary"]["workloads"]
    assert set(workloads) == {"mixed", "uniform"}
    for entry in workloads.values():
        ours = entry["peers"][OURS]
        assert ours["tokens_per_s"]["median"] > 0 and ours["share_of_floor"] > 0
        assert ours["peak_rss_bytes"] > 100e6
    assert workloads["uniform"]["peers"][OURS]["padding"] == 0
    assert 0 < workloads["mixed"]["peers"][OURS]["padding"] < 0.2
    assert {"commit", "versions", "device", "plan"} <= set(result)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_trainer_of_transformers_is_measured(tmp_path, grouped):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it: the bench extra")
    from bench.peers import hf_trainer

    model = write_model(tmp_path / "model", trainer.lfm2(TINY), TINY.vocab)
    lengths = mixed_lengths(200, 64, 20)
    write_rows(tmp_path / "rows.jsonl", lengths, TINY.vocab)
    job = {"model": str(model), "rows": str(tmp_path / "rows.jsonl"), "documents": 2}
    job |= {"accumulate": 2, "steps": 3, "threads": 1, "grouped": grouped, "stretch": 50}
    result = hf_trainer.run(job)
    for key in ("seconds", "tokens", "with_padding"):
        assert len(result[key]) == 2 and min(result[key]) > 0
    assert sum(result["tokens"]) <= sum(result["with_padding"])


def test_without_accelerate_the_trainer_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    monkeypatch.setattr(trainer.Bench, "_sample", lambda *_: None)
    assert trainer.main(["--tiny"]) == 0
    assert "Trainer left out: accelerate is not installed" in capsys.readouterr().err


def test_rows_have_the_lengths_asked_for(tmp_path):
    model = write_model(tmp_path / "model", trainer.lfm2(TINY), TINY.vocab)
    lengths = mixed_lengths(50, 64, 20)
    learnt = write_rows(tmp_path / "rows.jsonl", lengths, TINY.vocab)
    source = SourceConfig(str(tmp_path / "rows.jsonl"))
    corpus = load_corpus([source], load_tokenizer(model), DataConfig(), tmp_path / "cache")
    np.testing.assert_array_equal(corpus.lengths, lengths)
    assert sum(int(corpus.get(i)[1].sum()) for i in range(len(corpus))) == learnt


def test_plan_gives_both_as_many_documents():
    plan = trainer.Plan(threads=1)
    uniform = plan.lengths("uniform")
    assert set(uniform.tolist()) == {512}
    assert plan.documents(uniform) * 512 == plan.rows * plan.seq_len
    mixed = plan.lengths("mixed")
    a_micro_batch = plan.documents(mixed) * mixed.mean()
    assert a_micro_batch == pytest.approx(plan.rows * plan.seq_len, rel=0.2)
    assert len(mixed) >= trainer.STRETCH * plan.accumulate * plan.documents(mixed)


def test_metrics_are_read_without_the_first_step(tmp_path):
    rows = [
        {"step": s, "loss": 1.0, "seconds": 0.5, "tokens_per_s": 200.0, "padding": 0.2}
        | {"memory_gb": 1.5}
        for s in (1, 2, 3)
    ]
    rows.append({"step": 3, "eval_loss": 2.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_metrics(path) == {
        "seconds": [0.5, 0.5],
        "tokens": [100, 100],
        "with_padding": [125, 125],
        "peak_rss_bytes": 1.5e9,
    }


def test_summary_takes_medians_ratios_and_the_share_of_the_floor():
    def sample(peer: str, seconds: float) -> dict:
        found = {"tokens": [30, 70], "with_padding": [60, 65], "peak_rss_bytes": 7}
        return {"peer": peer, "workload": "mixed", "seconds": [seconds / 2] * 2, **found}

    samples = [sample(OURS, s) for s in (1, 2, 9)] + [sample(THEIRS, 3)] * 2
    samples.append({"peer": "gemm", "workload": "mixed", "gemm": {"8": {"flops_per_s": 1e9}}})
    samples.append(dict(samples[-1], gemm={"8": {"flops_per_s": 2e9}}))
    data = {"mixed": {"tokens": 100, "learnt_tokens": 25}}
    entry = summarize(samples, data, TINY)["workloads"]["mixed"]
    assert entry["peers"][OURS]["tokens_per_s"]["median"] == 50
    assert entry["peers"][THEIRS]["padding"] == pytest.approx(0.2)
    flops = 3 * (TINY.body_flops() + TINY.head_flops() / 4)
    assert entry["flops_of_a_token"] == flops
    assert entry["peers"][OURS]["share_of_floor"] == pytest.approx(50 * flops / 2e9)
    assert entry["ratio_to"] == {THEIRS: pytest.approx(1.5)}
    assert entry["met"] and entry["target"] == 1.3
