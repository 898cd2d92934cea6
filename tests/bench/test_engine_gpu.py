"""`bench.gpu engine` end to end in miniature on the CPU, and the arithmetic of its floors."""

import json
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from bench import architectures, engine_gpu, gpu, stage_parts
from bench.engine_parts import PARTS
from bench.idle import gaps
from bench.kernels.timing import Limits
from bench.part import Part, config_file
from bench.roofline import ModelCost, job_floor

MODELS = {
    "lfm2": architectures.lfm2_1b2(),
    "llama": architectures.llama_1b2(),
    "gemma2": architectures.gemma2_9b(),
    "cohere2": architectures.command_a(8),
}


def part(file: Path) -> Part:
    return Part("cpu", True, time.monotonic() + 60, file)


def test_the_command_writes_every_sample_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.setitem(engine_gpu.PARTS, "nothing", PARTS["idle"])  # unknown to the child
    monkeypatch.setitem(engine_gpu.SECONDS, "nothing", 30)
    chosen = ("nothing", "throughput", "transformers")
    arguments = [f"--only={name}" for name in chosen]
    done = CliRunner().invoke(gpu.app, ["engine", "--tiny", "--out", str(tmp_path), *arguments])
    result = json.loads((tmp_path / "engine.json").read_text())
    assert done.exit_code == 1 and "KeyError" in result["parts"]["nothing"]["error"]
    assert "nothing" in (tmp_path / "engine.nothing.log").read_text()
    runs = result["parts"]["throughput"]["runs"]
    assert [run["slots"] for run in runs] == [4, 8]
    assert all(len(run["seconds"]) == 2 and run["share_of_floor"] > 0 for run in runs)
    assert {"commit", "versions", "device", "when"} <= set(result)
    best = max(run["new_tokens_per_s"] for run in runs)
    theirs = result["parts"]["transformers"]["runs"][0]["new_tokens_per_s"]
    assert result["summary"]["over_transformers"] == pytest.approx(best / theirs)
    assert set(result["targets_met"]) == {"share_of_floor", "over_transformers"}


@pytest.mark.parametrize("name", ["batches", "fp8_9b", "fp8_111b", "idle", "deterministic"])
def test_a_part_runs_in_miniature(name, tmp_path):
    running = part(tmp_path / "result.json")
    PARTS[name](running)
    result = json.loads((tmp_path / "result.json").read_text())
    assert "error" not in result
    summary = engine_gpu.summarize({name: result})
    if name == "batches":
        assert [step["batch"] for step in result["steps"]] == [1, 4]
    else:
        assert summary
    if name == "fp8_9b":
        # e4m3 keeps three bits: far from equal, and far from unrelated.
        assert 0.01 < result["logprob_error"]["relative_rms"] < 0.5
    if name == "fp8_111b":
        few, many = (result["slices"][n]["bf16"]["seconds"] for n in ("4", "8"))
        a_layer = (np.median(many) - np.median(few)) / 4
        scaled = np.median(few) + 60 * a_layer
        assert result["scaled"]["bf16_seconds"] == pytest.approx(scaled)


def test_an_engine_is_gone_when_its_work_is_done(tmp_path):
    """Or a GPU would hold two of them."""
    running = part(tmp_path / "result.json")
    raw = running.sized(architectures.lfm2_1b2())
    alive = running.on_engine(raw, lambda engine: weakref.ref(engine.model), max_batch_size=2)
    assert alive() is None
    with pytest.raises(ZeroDivisionError):
        running.on_engine(raw, lambda engine: 1 // 0, max_batch_size=2)


def test_continuous_batching_is_measured_or_its_error_recorded(tmp_path):
    PARTS["continuous"](part(tmp_path / "result.json"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert "conv" in result["lfm2_1b2"]["error"]  # transformers 5.23 does not run it
    assert result["llama_1b2"]["tokens_as_generate"] > 0.7
    assert result["llama_1b2"]["ratio"] > 0


def test_a_part_that_takes_too_long_is_ended_and_its_samples_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_parts, "GRACE_S", 0)
    begin = time.monotonic()
    job = {"part": "throughput", "device": "cpu", "tiny": False, "seconds": 4}
    result = stage_parts.run_part("bench.engine_parts", job, tmp_path / "log")
    assert time.monotonic() - begin < 15
    assert "not done after 4 s" in result["error"]


def test_parts_without_time_are_named(tmp_path):
    found = engine_gpu.measure(tmp_path, time.monotonic() + 5, Console(quiet=True))
    assert found == {"parts": {}, "not_reached": list(PARTS)}
    engine_gpu.print_tables(found | {"summary": {}}, Console(quiet=True))


def test_an_unknown_part_is_refused(tmp_path):
    done = CliRunner().invoke(gpu.app, ["engine", "--out", str(tmp_path), "--only", "speed"])
    assert done.exit_code == 2


def test_every_part_has_its_time():
    assert set(engine_gpu.SECONDS) == set(PARTS)


@pytest.mark.parametrize("name", MODELS)
def test_configs_are_those_of_their_models(name):
    """As transformers counts their parameters, without making them."""
    raw = MODELS[name]
    with config_file(raw) as path:
        config = AutoConfig.from_pretrained(path)
    import torch

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = sum(
        module.weight.numel()
        for layer in model.model.layers
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    )
    cost = ModelCost.of(raw)
    assert cost.body == matrices
    assert cost.head == config.vocab_size * config.hidden_size
    published = {"lfm2": 1.17e9, "llama": 1.236e9, "gemma2": 9.24e9}
    if name in published:
        assert model.num_parameters() == pytest.approx(published[name], rel=0.01)
    if name == "cohere2":
        assert cost.head + cost.body * 64 / 8 == pytest.approx(111e9, rel=0.01)


SMALL = ModelCost(
    body=1000,
    head=200,
    fp8=False,
    heads=4,
    kv_heads=2,
    head_dim=8,
    windows=(None, 16),
    state_bytes=50,
)


def test_a_decode_step_reads_weights_visible_cache_and_states():
    cost = SMALL.decode(np.array([10, 20]))
    seen = (10 + 20) + (10 + 16)
    assert cost.bytes == 2 * (1000 + 200) + seen * 2 * 2 * 8 * 2 + 2 * 2 * 50
    assert cost.bf16_flops == 2 * 2 * (1000 + 200) + seen * 4 * 4 * 8
    assert cost.seconds(Limits(copy=cost.bytes / 3, bf16=1e12, fp8=None)) == pytest.approx(3)
    assert cost.seconds(Limits(copy=1e12, bf16=cost.bf16_flops / 5, fp8=None)) == pytest.approx(5)


def test_fp8_weights_are_a_byte_and_have_their_own_rate():
    fp8 = ModelCost(**{**vars(SMALL), "fp8": True})
    dense, small = (m.decode(np.array([10, 20])) for m in (SMALL, fp8))
    assert dense.bytes - small.bytes == 1000
    assert small.fp8_flops == 2 * 2 * 1000
    assert small.bf16_flops + small.fp8_flops == dense.bf16_flops


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_a_prompt_counts_each_visible_pair_once(length):
    cost = SMALL.prefill(np.array([length]))
    pairs = sum(i + 1 + min(i + 1, 16) for i in range(length))
    assert cost.bytes == 0
    assert cost.bf16_flops == 2 * (1000 * length + 200) + pairs * 4 * 4 * 8


def test_a_jobs_floor_is_the_sum_over_its_steps():
    limit = Limits(copy=1.0, bf16=1e30, fp8=None)
    prompts, outputs = [3, 5, 7], [3, 1, 2]
    # Two slots: 0 and 1 enter, 1 ends with its prompt's pass, and 2 takes its slot a step later.
    steps = [[4], [5, 8]]
    floor = job_floor(SMALL, prompts, outputs, 2, limit)
    expected = sum(SMALL.decode(np.array(step)).bytes for step in steps)
    assert floor.steps == 2 and floor.decode_s == pytest.approx(expected)
    assert floor.prefill_s == pytest.approx(SMALL.prefill(np.array(prompts)).bf16_flops / 1e30)
    alone = job_floor(SMALL, prompts, outputs, 1, limit)
    assert alone.steps == 3 and alone.decode_s == pytest.approx(floor.decode_s + 2 * 1200)


def test_gaps_are_the_time_without_any_kernel():
    # 0..200 in all; of the later half, 130..150 and 160..190 are idle.
    kernels = [(0, 10), (90, 130), (100, 120), (150, 155), (152, 160), (190, 200)]
    found = gaps(kernels[::-1])
    assert found["idle_share"] == pytest.approx(50 / 100)
    assert found["longest_gap_s"] == pytest.approx(30e-9)
    assert gaps([(0, 100)])["idle_share"] == 0
