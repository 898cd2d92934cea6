"""`transformers` with compressed-tensors loads what we write, and computes what it should.

The reference is the float model with the recovered weights in it, whose linear layers see their
inputs as the scheme quantizes them at run time.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB, random_prompts, write_checkpoint
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from quantized_directories import read_config, recovered, run, tensors
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

from hala_engine.quantize.scheme import SCHEMES

PRESETS = {"fp8-dynamic": "FP8_DYNAMIC", "fp8-block": "FP8_BLOCK"}
WIDE = {"hidden_size": 256, "intermediate_size": 384}
IGNORE = (r"layers\.1\..*(w1|w3|gate_proj|up_proj)$",)


@pytest.fixture(scope="module", params=["lfm2", "llama"])
def source(request, tmp_path_factory) -> Path:
    """A sharded float32 checkpoint, with weights whose rows no block divides."""
    directory = tmp_path_factory.mktemp(request.param) / "source"
    write_checkpoint(directory, request.param, shard_size="400KB", **WIDE | {"head_dim": 24})
    return directory


@pytest.fixture(scope="module", params=SCHEMES)
def target(request, source) -> Path:
    directory = source.with_name(request.param)
    run(source, directory, request.param, IGNORE)
    return directory


def quantized_modules(directory: Path) -> set[str]:
    found = tensors(directory)
    return {n.removesuffix(".weight") for n, t in found.items() if t.dtype == torch.float8_e4m3fn}


def quantized_input(x: torch.Tensor, group: int | None) -> torch.Tensor:
    """`x` as the scheme has it at run time: to e4m3 and back, per token or per group of it."""
    grouped = x.unflatten(-1, (-1, group)) if group else x.unsqueeze(-2)
    scale = grouped.abs().amax(-1, keepdim=True) / 448
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    q = (grouped / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return (q.float() * scale).flatten(-2)


def reference(source: Path, target: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = {name: value.float() for name, value in recovered(target).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    group = 128 if target.name == "fp8-block" else None
    for name in quantized_modules(target):
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs: (quantized_input(inputs[0], group),)
        )
    return model.eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = [ids[:40] + [9] * (40 - len(ids)) for ids in random_prompts(4)]
    with torch.inference_mode():
        return model(torch.tensor(tokens), use_cache=False).logits.float()


def test_weights_after_decompression_are_exactly_ours(source, target):
    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(target, quantization_config=config)
    state = model.state_dict()
    for name, weight in recovered(target).items():
        assert state[name].dtype == torch.float32
        assert state[name].double().equal(weight), name


def test_logits_are_those_of_the_recovered_weights(source, target):
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    ours, theirs = logits(reference(source, target)), logits(model)
    assert theirs.shape[-1] == VOCAB
    # An input that lies on the edge between two e4m3 values may fall to either side.
    assert (ours - theirs).abs().max() < 2e-3 * ours.abs().max()
    assert (ours - theirs).abs().mean() < 1e-5 * ours.abs().max()
    exact = logits(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
    assert (ours - exact).abs().mean() > 1e-3 * ours.abs().max()  # what quantization did


def test_exactly_our_layers_are_quantized_there(target):
    model = AutoModelForCausalLM.from_pretrained(target)
    theirs = {n for n, m in model.named_modules() if hasattr(m, "quantization_scheme")}
    assert theirs == quantized_modules(target)
    assert theirs and not any(re.search(IGNORE[0], name) or "lm_head" in name for name in theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_half_precision_model_recovers_our_weights(tmp_path, dtype, scheme):
    """Its scales are kept in half precision there: they are exact, and the weights round once."""
    write_checkpoint(tmp_path / "float", "llama", **WIDE)
    source, target = tmp_path / "source", tmp_path / "target"
    AutoModelForCausalLM.from_pretrained(tmp_path / "float", dtype=dtype).save_pretrained(source)
    run(source, target, scheme)
    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(target, quantization_config=config)
    for name, weight in recovered(target).items():
        assert model.state_dict()[name].equal(weight.to(dtype)), name


def test_a_float32_checkpoint_loads_in_bfloat16_with_the_same_scales(tmp_path):
    write_checkpoint(tmp_path / "source", "llama", **WIDE)
    run(tmp_path / "source", tmp_path / "target")
    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "target", quantization_config=config, dtype=torch.bfloat16
    )
    for name, weight in recovered(tmp_path / "target").items():
        if "_proj" in name:
            assert model.state_dict()[name].equal(weight.bfloat16()), name


def test_the_configuration_is_the_preset_of_compressed_tensors(target):
    written = read_config(target)["quantization_config"]
    read = QuantizationConfig.model_validate(written)
    preset = preset_name_to_scheme(PRESETS[target.name], ["Linear"])
    preset.format = "float-quantized"
    assert read.config_groups == {"group_0": preset}
    assert read.ignore == written["ignore"]
    # It knows every field that we write; its defaults are what we leave out.
    theirs = read.model_dump(mode="json")
    ours = {k: v for k, v in written.items() if k not in ("sparsity_config", "transform_config")}
    assert ours.keys() <= theirs.keys()
    assert {key: theirs[key] for key in ours} | {"config_groups": 0} == ours | {"config_groups": 0}
