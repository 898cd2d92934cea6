"""FP8 checkpoints that cannot be used: one line that says what, where and how to mend it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import rewrite_config
from fp8_checkpoints import GOLDENS, LAYOUTS, arguments, fp8, write_quantized
from safetensors.torch import load_file, save_file

from hala_engine import Engine, EngineConfig
from hala_engine.errors import InputError

CPU = EngineConfig(device="cpu", dtype="float32")


def refused(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        Engine(directory, config=CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def golden(tmp_path):
    """A copy of fp8_dynamic, an LFM2, to be spoilt."""
    return copy_of("fp8_dynamic", tmp_path)


W2 = "model.layers.1.feed_forward.w2"


def copy_of(name: str, directory: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / name, directory / name))


def change_tensors(directory: Path, change, file: str = "model.safetensors") -> None:
    path = directory / file
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_quantization(directory: Path, **changes) -> None:
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    rewrite_config(directory, quantization_config=config | changes)


def change_group(directory: Path, **changes) -> None:
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    scheme = config["config_groups"]["group_0"] | changes
    change_quantization(directory, config_groups={"group_0": scheme})


@pytest.mark.parametrize("method", ["gptq", "awq", "modelopt", "bitsandbytes", None])
def test_another_method(golden, method):
    change_quantization(golden, quant_method=method)
    message = refused(golden)
    assert repr(method) in message and "config.json" in message


@pytest.mark.parametrize(
    ("form", "weights", "named"),
    [
        (
            "pack-quantized",
            arguments("group", group_size=128) | {"num_bits": 4, "type": "int"},
            "4",
        ),
        ("int-quantized", arguments("channel", type="int"), "8-bit int"),
        ("nvfp4-pack-quantized", arguments("tensor_group", num_bits=4), "4-bit float"),
        ("float-quantized", arguments("group", group_size=32), "group"),
        ("float-quantized", arguments("channel", symmetric=False), "asymmetric"),
        ("float-quantized", arguments("block", block_structure=[64, 64]), "[64, 64]"),
    ],
)
def test_another_scheme(golden, form, weights, named):
    change_group(golden, format=form, weights=weights)
    message = refused(golden)
    assert named in message and "group_0" in message and "config.json" in message


def test_activations_that_no_kernel_quantizes(golden):
    change_group(golden, input_activations=arguments("token", dynamic=True, type="int"))
    message = refused(golden)
    assert "activations" in message and "group_0" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quantization_status": "frozen"}, "frozen"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
    ],
)
def test_an_unfinished_or_transformed_checkpoint(golden, changes, named):
    change_quantization(golden, **changes)
    message = refused(golden)
    assert named in message and "config.json" in message


def test_another_block_size_of_fine_grained_fp8(golden):
    rewrite_config(golden, quantization_config=fp8(weight_block_size=[64, 128]))
    assert "[64, 128]" in refused(golden)


def test_a_missing_scale(golden):
    change_tensors(golden, lambda t: t.pop(f"{W2}.weight_scale"))
    message = refused(golden)
    assert f"{W2}.weight_scale" in message and str(golden) in message


def test_a_missing_input_scale(tmp_path):
    copy = copy_of("fp8_static", tmp_path)
    name = "model.layers.0.self_attn.k_proj.input_scale"
    change_tensors(copy, lambda t: t.pop(name))
    assert name in refused(copy)


def test_a_missing_scale_of_fine_grained_fp8(tmp_path):
    write_quantized(tmp_path, LAYOUTS["deepseek"])
    name = "model.layers.1.mlp.gate_proj.weight_scale_inv"
    change_tensors(tmp_path, lambda t: t.pop(name))
    message = refused(tmp_path)
    assert name in message and str(tmp_path) in message


@pytest.mark.parametrize("shape", [(96, 1), (1, 64), (64, 2), (), (63,)])
def test_a_scale_of_another_shape(golden, shape):
    change_tensors(golden, lambda t: t.update({f"{W2}.weight_scale": torch.ones(shape)}))
    message = refused(golden)
    assert f"{W2}.weight_scale" in message and "model.safetensors" in message
    assert str(list(shape)) in message and "[64, 1]" in message


def test_a_scale_that_is_not_finite(golden):
    def spoil(tensors):
        tensors[f"{W2}.weight_scale"][3] = float("nan")

    change_tensors(golden, spoil)
    message = refused(golden)
    assert f"{W2}.weight_scale" in message and "model.safetensors" in message


def test_a_scale_that_is_no_float(golden):
    scale = torch.ones(64, 1, dtype=torch.int32)
    change_tensors(golden, lambda t: t.update({f"{W2}.weight_scale": scale}))
    message = refused(golden)
    assert f"{W2}.weight_scale" in message and "I32" in message


def test_a_bf16_weight_that_should_be_fp8(golden):
    change_tensors(golden, lambda t: t.update({f"{W2}.weight": t[f"{W2}.weight"].bfloat16()}))
    message = refused(golden)
    assert f"{W2}.weight" in message and "BF16" in message and "model.safetensors" in message


def test_fp8_weights_that_config_json_does_not_speak_of(golden):
    rewrite_config(golden, drop=("quantization_config",))
    message = refused(golden)
    assert "weight" in message and "model.safetensors" in message


def test_an_fp8_weight_that_is_ignored(golden):
    change_quantization(golden, ignore=["lm_head", W2])
    message = refused(golden)
    assert W2 in message and "model.safetensors" in message


def test_a_zero_point(golden):
    zeros = torch.zeros(64, 1, dtype=torch.int8)
    change_tensors(golden, lambda t: t.update({f"{W2}.weight_zero_point": zeros}))
    message = refused(golden)
    assert f"{W2}.weight_zero_point" in message and "model.safetensors" in message


def test_a_scale_of_another_shape_in_a_shard(tmp_path):
    copy = copy_of("fp8_groups", tmp_path)
    name, shard = "model.layers.0.mlp.down_proj.weight_scale", "model-00002-of-00003.safetensors"
    change_tensors(copy, lambda t: t.update({name: torch.ones(2, 1)}), shard)
    message = refused(copy)
    assert name in message and shard in message and "[2, 2]" in message


@pytest.mark.parametrize("number", [1, 3])
def test_a_truncated_shard(tmp_path, number):
    copy = copy_of("fp8_groups", tmp_path)
    file = f"model-0000{number}-of-00003.safetensors"
    (copy / file).write_bytes((copy / file).read_bytes()[:-100])
    assert file in refused(copy)


def test_too_many_scales_of_k(tmp_path):
    copy = copy_of("fp8_kv", tmp_path)
    name = "model.layers.1.self_attn.k_scale"
    change_tensors(copy, lambda t: t.update({name: torch.ones(7)}))
    message = refused(copy)
    assert name in message and "model.safetensors" in message


@pytest.mark.parametrize(
    "quantization",
    [
        "fp8",
        ["fp8"],
        {"quant_method": "fp8", "weight_block_size": 128},
        {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": [1]},
    ],
)
def test_a_malformed_quantization_config(golden, quantization):
    rewrite_config(golden, quantization_config=quantization)
    message = refused(golden)
    assert "quantization_config" in message and "config.json" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ["re:("]},
        {"targets": [3]},
        {"weights": "fp8"},
        {"weights": arguments("block", block_structure="axb")},
        {"input_activations": "fp8"},
    ],
)
def test_a_malformed_group(golden, changes):
    change_group(golden, **changes)
    message = refused(golden)
    assert "config.json" in message
