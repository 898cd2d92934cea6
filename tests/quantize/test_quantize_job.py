"""A checkpoint directory in, an FP8 directory out: what is in it, and that it appears whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoints import rewrite_config, write_checkpoint
from quantized_directories import command, convert, read_config, recovered, run, tensors
from safetensors import safe_open

from hala_engine.quantize.job import prepare
from hala_engine.quantize.scheme import SCHEMES

WIDE = {"hidden_size": 128, "intermediate_size": 384}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shard_size", ["300KB", "1GB"])
def test_tensors_of_the_result(tmp_path, scheme, dtype, shard_size):
    source, target = tmp_path / "source", tmp_path / "target"
    write_checkpoint(source, "llama", shard_size=shard_size, **WIDE)
    convert(source, dtype)
    report = run(source, target, scheme)
    before, after = tensors(source), tensors(target)
    linear = {name for name in before if re.search(r"_proj\.weight$", name)}
    assert {layer.module for layer in report.layers} == {n.removesuffix(".weight") for n in linear}
    assert set(after) == set(before) | {f"{name}_scale" for name in linear}
    for name, weight in before.items():
        if name not in linear:
            assert after[name].dtype == dtype and after[name].equal(weight)
            continue
        rows, columns = weight.shape
        blocks = (-(-rows // 128), -(-columns // 128))
        assert after[name].dtype == torch.float8_e4m3fn and after[name].shape == weight.shape
        assert after[f"{name}_scale"].dtype == dtype
        assert after[f"{name}_scale"].shape == ((rows, 1) if scheme == "fp8-dynamic" else blocks)
    values = recovered(target)
    for layer in report.layers:
        exact = before[f"{layer.module}.weight"].double()
        error = (values[f"{layer.module}.weight"] - exact).norm() / exact.norm()
        assert layer.relative_error == pytest.approx(error.item(), rel=1e-4)
        assert 0.02 < error < 0.04  # e4m3 rounds by at most 1/16, by 2.6% on average


def test_files_keep_their_names_and_the_index_tells_the_truth(source, target):
    run(source, target)
    files = sorted(p.name for p in source.glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(p.name for p in target.glob("*.safetensors")) == files
    index = json.loads((target / "model.safetensors.index.json").read_text())
    placed = {}
    for file in files:
        with safe_open(target / file, framework="pt") as reader:
            assert reader.metadata() == {"format": "pt"}
            placed |= dict.fromkeys(reader.keys(), file)
    assert index["weight_map"] == placed
    size = sum(t.numel() * t.itemsize for t in tensors(target).values())
    assert index["metadata"]["total_size"] == size


def test_one_file_has_no_index(tmp_path, target):
    write_checkpoint(tmp_path / "source", **WIDE)
    run(tmp_path / "source", target)
    assert [p.name for p in target.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_stays_tied_and_the_output_projection_is_kept(tmp_path, target, tied):
    write_checkpoint(tmp_path / "source", "qwen2", tie_word_embeddings=tied)
    run(tmp_path / "source", target)
    assert ("lm_head.weight" in tensors(target)) is not tied
    assert read_config(target)["quantization_config"]["ignore"] == ["lm_head"]
    assert read_config(target)["tie_word_embeddings"] is tied


def test_biases_norms_and_convolutions_are_kept(tmp_path, target):
    write_checkpoint(tmp_path / "source", "lfm2", conv_bias=True)
    run(tmp_path / "source", target)
    before, after = tensors(tmp_path / "source"), tensors(target)
    kinds = {re.split(r"\.\d+\.", n)[-1] for n, t in after.items() if t.dtype == torch.float32}
    assert {"conv.conv.weight", "conv.in_proj.bias", "operator_norm.weight"} <= kinds
    quantized = {n for n, t in after.items() if t.dtype == torch.float8_e4m3fn}
    assert {re.split(r"\.\d+\.", name)[-1] for name in quantized} == {
        f"{name}.weight"
        for name in (
            *("conv.in_proj", "conv.out_proj"),
            *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
            *(f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")),
        )
    }
    for name in set(before) - quantized:
        assert after[name].equal(before[name])


def test_other_files_come_along_and_other_weights_do_not(source, target):
    extra = {
        "README.md": "card",
        "chat_template.jinja": "{{ messages }}",
        "tokenizer.model": "bytes",
        "pytorch_model.bin": "weights",
        "pytorch_model.bin.index.json": "{}",
        "consolidated.00.pth": "weights",
        "consolidated.safetensors": "weights",
        "model.gguf": "weights",
        ".gitattributes": "",
    }
    for name, text in extra.items():
        (source / name).write_text(text)
    (source / "original").mkdir()
    (source / "original" / "params.json").write_text("{}")
    run(source, target)
    expected = {"README.md", "chat_template.jinja", "tokenizer.model"}
    assert {n for n in (*extra, "original") if (target / n).exists()} == expected
    for name in ("tokenizer.json", "generation_config.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_a_hub_snapshot_of_links_is_read(source, target, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    source.rename(blobs)
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    run(snapshot, target)
    assert not [path for path in target.iterdir() if path.is_symlink()]
    assert (target / "tokenizer.json").read_bytes() == (blobs / "tokenizer.json").read_bytes()


def test_config_keeps_its_fields_and_says_the_dtype(source, target):
    rewrite_config(source, drop=("dtype",), custom={"a": "ü"})
    run(source, target)
    config = read_config(target)
    assert config.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert config.pop("dtype") == "bfloat16"
    assert config == read_config(source)


def test_ignored_layers_are_kept_and_listed(source, target):
    run(source, target, ignore=(r"layers\.0\.", r"w2$"))
    before, after = tensors(source), tensors(target)
    listed = read_config(target)["quantization_config"]["ignore"]
    assert "model.layers.0.feed_forward.w1" in listed and "model.layers.3.feed_forward.w2" in listed
    assert listed[-1] == "lm_head" and len(set(listed)) == len(listed)
    for module in listed[:-1]:
        assert re.search(r"layers\.0\.|w2$", module)
        assert after[f"{module}.weight"].equal(before[f"{module}.weight"])
    assert after["model.layers.1.feed_forward.w1.weight"].dtype == torch.float8_e4m3fn


def warnings(source: Path, target: Path, scheme: str = "fp8-dynamic", ignore=()) -> tuple[str, ...]:
    return prepare(source, target, scheme, ignore)[1].warnings


def test_an_expression_that_matches_nothing_is_a_warning(source, target):
    assert warnings(source, target, ignore=("q_poj",)) == (
        "--ignore 'q_poj' matches no linear layer",
    )


def test_splitting_what_vllm_fuses_is_a_warning(source, target):
    (warning,) = warnings(source, target, ignore=("w1$", r"layers\.1\."))
    assert "vLLM fuses them" in warning and "model.layers.0.feed_forward.w1" in warning
    assert not warnings(source, target, ignore=("w[13]$", "[qkv]_proj"))


def test_columns_that_are_no_multiple_of_the_block_stay(tmp_path, target):
    """compressed-tensors pads such weights, but cannot group the activations that meet them."""
    source = tmp_path / "source"
    write_checkpoint(source, "llama", hidden_size=128, intermediate_size=200)
    (warning,) = warnings(source, target, "fp8-block")
    assert warning.startswith("5 linear layers stay as they are: its 200 columns")
    run(source, target, "fp8-block")
    listed = read_config(target)["quantization_config"]["ignore"]
    assert listed == [*(f"model.layers.{i}.mlp.down_proj" for i in range(5)), "lm_head"]
    after = tensors(target)
    assert after["model.layers.0.mlp.down_proj.weight"].dtype == torch.float32
    assert after["model.layers.0.mlp.up_proj.weight_scale"].shape == (2, 1)


def test_chunks_smaller_than_a_tensor_change_nothing(source, target, monkeypatch):
    from hala_engine.quantize import stream

    for scheme in SCHEMES:
        whole, cut = target.with_name(f"whole-{scheme}"), target.with_name(f"cut-{scheme}")
        monkeypatch.setattr(stream, "CHUNK_BYTES", 1 << 30)
        expected = run(source, whole, scheme)
        monkeypatch.setattr(stream, "CHUNK_BYTES", 1000)
        monkeypatch.setattr(stream, "SYNC_BYTES", 10_000)
        layers = run(source, cut, scheme).layers
        for path in whole.iterdir():
            assert (cut / path.name).read_bytes() == path.read_bytes()
        for one, other in zip(layers, expected.layers, strict=True):
            assert one.module == other.module
            assert one.relative_error == pytest.approx(other.relative_error, rel=1e-5)


def test_the_command_prints_sizes_and_errors_and_writes_the_report(source, target, tmp_path):
    report = tmp_path / "report.json"
    done = command(
        *(source, target, "--scheme", "fp8-block", "--ignore", "nope", "--report", report)
    )
    assert done.returncode == 0, done.stderr
    assert "--ignore 'nope' matches no linear layer" in done.stderr
    assert "100%" in done.stderr and "100%" not in done.stdout
    for expected in ("fp8-block", "GB", "feed_forward.w2", "worst layers"):
        assert expected in done.stdout
    values = json.loads(report.read_text())
    assert values["scheme"] == "fp8-block" and values["ignore"] == ["lm_head"]
    assert values["written_bytes"] < values["source_bytes"]
    assert len(values["layers"]) == 5 * 3 + 2 * 4 + 3 * 2
    assert all(0.02 < layer["relative_error"] < 0.04 for layer in values["layers"])


def test_help_has_an_example():
    shown = command("--help").stdout
    assert "Example: hala-engine quantize" in shown
    for flag in ("--scheme", "--ignore", "--verify", "--report", "--debug"):
        assert flag in shown
