"""`bench.gpu trainer` end to end in miniature on the CPU, and the arithmetic of its figures."""

import json
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from bench import gpu, trainer_check, trainer_gpu, trainer_parts
from bench.kernel_split import REST, kind_of
from bench.part import Part
from bench.trainer_parts import PARTS
from hala_trainer.model import short_conv


def run(name: str, tmp_path) -> dict:
    PARTS[name](Part("cpu", True, time.monotonic() + 120, tmp_path / "result.json"))
    return json.loads((tmp_path / "result.json").read_text())


def test_the_command_writes_every_step_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.setitem(trainer_gpu.PARTS, "nothing", PARTS["check"])  # unknown to the child
    monkeypatch.setitem(trainer_gpu.SECONDS, "nothing", 30)
    arguments = ["trainer", "--tiny", "--out", str(tmp_path), "--only=nothing", "--only=lfm2_2k"]
    done = CliRunner().invoke(gpu.app, arguments)
    result = json.loads((tmp_path / "trainer.json").read_text())
    assert done.exit_code == 1 and "KeyError" in result["parts"]["nothing"]["error"]
    assert "nothing" in (tmp_path / "trainer.nothing.log").read_text()
    runs = result["parts"]["lfm2_2k"]["runs"]
    assert len(runs) == 2
    for one in runs:
        assert len(one["seconds"]) == len(one["tokens"]) == len(one["flops"]) == 2
        assert one["tokens_per_s"] == pytest.approx(sum(one["tokens"]) / sum(one["seconds"]))
        assert all(0.8 * p < t <= p for t, p in zip(one["tokens"], one["places"], strict=True))
        assert one["split"]["seconds"]["matrix products"] > 0
        assert one["estimate_bytes"] > 0
    assert {"commit", "versions", "device", "when"} <= set(result)
    assert result["summary"]["tokens_per_s_1b2_2k"] == max(r["tokens_per_s"] for r in runs)


def test_rows_of_one_document_and_of_many_are_trained_on(tmp_path):
    mixed, whole = run("lfm2_4k", tmp_path)["runs"]
    assert whole["whole"] and whole["tokens"] == whole["places"]
    assert not mixed["whole"] and sum(mixed["flops"]) < sum(whole["flops"])


def test_a_model_of_all_layers_is_scaled_from_slices(tmp_path):
    result = run("gemma_9b", tmp_path)
    few, many = (np.mean(result["slices"][n]["seconds"]) for n in ("2", "4"))
    scaled = few + 40 * (many - few) / 2
    assert result["scaled"]["seconds"] == pytest.approx(scaled)
    summary = trainer_gpu.summarize({"gemma_9b": result})
    assert summary == {"tokens_per_s_9b": result["scaled"]["tokens_per_s"]}


def test_the_plain_loop_halves_its_batch_until_it_fits(tmp_path, monkeypatch):
    tried = []

    def step(self, lengths, seed):
        tried.append(lengths.shape)
        if lengths.shape[1] > 3:
            raise torch.OutOfMemoryError("full")
        return 0.5

    monkeypatch.setattr(trainer_parts.HfLoop, "step", step)
    result = run("transformers", tmp_path)
    assert tried[-1] == (2 * 2 ** len(result["too_many_documents"]), result["documents"])
    assert result["documents"] <= 3 and result["accumulate"] == tried[-1][0]
    assert result["tokens_per_s"] == pytest.approx(sum(result["tokens"]) / 1.0)


def test_the_plain_loop_trains(tmp_path):
    result = run("transformers", tmp_path)
    assert len(result["seconds"]) == 2 and result["tokens_per_s"] > 0
    assert "too_many_documents" not in result


def test_gradients_are_compared_and_a_leak_between_documents_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_check, "MODELS", {"lfm2": None})
    result = run("check", tmp_path)
    assert result["ok"]
    assert set(result["models"]["lfm2"]) == {
        way.name for way in trainer_check.ways("cpu") if not way.compile
    }
    right = short_conv.short_conv_packed
    monkeypatch.setattr(
        short_conv,
        "short_conv_packed",
        lambda bcx, weight, bias, numbers: right(bcx, weight, bias, torch.zeros_like(numbers)),
    )
    result = run("check", tmp_path)
    assert not result["ok"]
    ways = result["models"]["lfm2"]
    assert ways["float32, packed"]["gradient"] > 10 * trainer_check.LIMITS["float32"]


def test_an_error_and_a_lack_of_time_are_not_ok(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_check, "MODELS", {"lfm2": None})
    monkeypatch.setattr(trainer_check, "gradients", lambda *_: (1.0, {"w": torch.ones(2)}))
    part = Part("cpu", True, time.monotonic() - 1, tmp_path / "result.json")
    trainer_check.check(part)
    assert not part.result["ok"] and len(part.result["not_reached"]) == 5

    def fail(model, way):
        if way.recompute == "full":
            raise RuntimeError("no kernel")
        return 1.0, {"w": torch.ones(2)}

    monkeypatch.setattr(trainer_check, "gradients", fail)
    result = run("check", tmp_path)
    assert not result["ok"]
    error = result["models"]["lfm2"]["float32, packed, recompute full"]["error"]
    assert error == "RuntimeError: no kernel"
    trainer_gpu.print_tables(
        {"summary": {}, "parts": {"check": result}, "not_reached": []}, Console(quiet=True)
    )


def test_the_summary_holds_the_best_run_and_the_ratio():
    runs = [{"tokens_per_s": 50.0, "mfu": 0.4}, {"error": "out of memory"}]
    runs.append({"tokens_per_s": 80.0, "mfu": 0.6})
    whole = [{"tokens_per_s": n, "mfu": n / 100, "whole": n > 30} for n in (30.0, 40.0)]
    parts = {"lfm2_2k": {"runs": runs}, "lfm2_4k": {"runs": whole}, "check": {"ok": True}}
    parts["transformers"] = {"tokens_per_s": 20.0}
    summary = trainer_gpu.summarize(parts)
    assert summary["mfu_1b2_2k"] == 0.6 and summary["over_transformers"] == 4
    assert summary["mfu_1b2_4k"] == 0.4 and summary["mfu_1b2_4k_mixed"] == 0.3
    assert summary["gradients_ok"]
    assert trainer_gpu.verdicts(summary) == {"mfu_1b2_2k": True, "mfu_1b2_4k": False}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("triton_tem_fused_flex_attention_backward_7", "attention"),
        ("_cross_entropy_kernel", "loss"),
        ("triton_poi_fused_silu_mul_3", REST),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>",
            "optimizer",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel, kind):
    assert kind_of(kernel) == kind


def test_parts_without_time_are_named(tmp_path):
    found = trainer_gpu.measure(tmp_path, time.monotonic() + 5, Console(quiet=True))
    assert found == {"parts": {}, "not_reached": list(PARTS)}
    trainer_gpu.print_tables(found | {"summary": {}}, Console(quiet=True))


def test_an_unknown_part_is_refused(tmp_path):
    done = CliRunner().invoke(gpu.app, ["trainer", "--out", str(tmp_path), "--only", "speed"])
    assert done.exit_code == 2


def test_every_part_has_its_time_within_nine_minutes():
    assert set(trainer_gpu.SECONDS) == set(PARTS)
    assert sum(trainer_gpu.SECONDS.values()) <= 540
