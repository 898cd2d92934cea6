"""Random weights: the same by seed, plausible in size, in FP8 a rounding of the dense ones."""

import json

import pytest
import torch
from checkpoints import ARCHITECTURES, SETTINGS
from compressed_tensors.quantization import QuantizationConfig
from fp8_checkpoints import fp8

from hala_engine.errors import InputError
from hala_engine.layers.quantized import InputForm
from hala_engine.models.registry import model_layout, random_model
from hala_engine.quantize.scheme import SCHEMES
from hala_engine.weights import random_source
from hala_engine.weights.quantization import Scheme, dequantize
from hala_engine.weights.random_source import ImaginedHeaders, RandomSource
from hala_engine.weights.source import Placement

CPU = torch.device("cpu")
FLOAT32 = Placement(torch.float32, CPU)
NAME, SHAPE = "model.layers.0.mlp.up_proj.weight", (200, 300)
SCALES = {"tensor": (1,), "channel": (200, 1), "block": (2, 3)}


def config(architecture: str, **overrides) -> dict:
    """A small config.json as transformers writes it."""
    kind = ARCHITECTURES[architecture]
    return json.loads(kind.config(**SETTINGS | kind.settings | overrides).to_json_string())


def read(source: RandomSource, name: str = NAME, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return source.read(name, shape, 0, None)


def test_a_tensor_is_its_own_by_seed_and_name_whatever_was_read_before():
    first, second = RandomSource(FLOAT32, {}, 3), RandomSource(FLOAT32, {}, 3)
    read(second, "another.weight")
    assert torch.equal(read(first), read(second))
    assert not torch.equal(read(first), read(first, "another.weight"))
    assert not torch.equal(read(first), read(RandomSource(FLOAT32, {}, 4)))


def test_weights_have_the_spread_that_keeps_activations_finite():
    source = RandomSource(FLOAT32, {}, 0)
    matrix = read(source, NAME, (400, 500))
    assert matrix.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(matrix.mean().item()) < 3e-4
    norm = read(source, "model.layers.0.operator_norm.weight", (4096,))
    assert norm.min() >= 0.9 and norm.max() <= 1.1 and norm.std() > 0.05
    bias = read(source, "model.layers.0.self_attn.q_proj.bias", (4096,))
    assert bias.std().item() == pytest.approx(0.02, rel=0.1)
    taps = read(source, "model.layers.0.conv.conv.weight", (4096, 1, 3))
    assert taps.square().sum(2).mean().item() == pytest.approx(1, rel=0.1)


def test_bfloat16_weights_are_the_float32_ones_rounded():
    bfloat16 = RandomSource(Placement(torch.bfloat16, CPU), {}, 0)
    assert torch.equal(read(bfloat16), read(RandomSource(FLOAT32, {}, 0)).bfloat16())


def test_a_part_is_cut_from_the_whole():
    source = RandomSource(FLOAT32, {}, 0)
    whole = read(source)
    assert torch.equal(source.read(NAME, SHAPE, 0, slice(7, 50)), whole[7:50])
    assert torch.equal(source.read(NAME, SHAPE, 1, slice(100, 300)), whole[:, 100:])


@pytest.mark.parametrize("by", SCALES)
def test_fp8_weights_recover_the_dense_ones_of_the_same_seed(by, monkeypatch):
    monkeypatch.setattr(random_source, "PIECE", 128 * 300)  # several pieces, the last one ragged
    dense = read(RandomSource(FLOAT32, {}, 0))
    module = NAME.removesuffix(".weight")
    source = RandomSource(FLOAT32, {module: Scheme(by, "token")}, 0)
    weight = read(source)
    scale = source.read(f"{module}.weight_scale", SCALES[by], 0, None)
    assert weight.dtype == torch.float8_e4m3fn and weight.shape == SHAPE
    assert scale.dtype == torch.float32 and scale.shape == SCALES[by]
    recovered = dequantize(weight, scale.reshape(-1, 1) if by == "tensor" else scale, torch.float32)
    # e4m3 keeps 3 bits behind the point: half a step is 1/16, or the smallest step near zero.
    error = (recovered - dense).abs()
    assert (error <= dense.abs() / 16 + scale.max() * 2**-10).all()
    assert error.mean() > 1e-5


def test_the_scale_of_another_module_is_not_given_out():
    schemes = {name: Scheme("channel", "token") for name in ("a", "b")}
    source = RandomSource(FLOAT32, schemes, 0)
    read(source, "a.weight")
    with pytest.raises(KeyError, match=r"b\.weight_scale"):
        source.read("b.weight_scale", (200, 1), 0, None)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_builds_with_its_parameters(architecture):
    raw = config(architecture)
    model = random_model(raw, "config.json", FLOAT32, 0)
    again = random_model(raw, "config.json", FLOAT32, 0)
    other = random_model(raw, "config.json", FLOAT32, 1)
    states = [m.state_dict() for m in (model, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(*(s["vocabulary.embedding"] for s in states[::2]))
    assert all(parameter.isfinite().all() for parameter in states[0].values())


FP8_CONFIGS = {
    **{name: scheme.quantization_config(["lm_head"]) for name, scheme in SCHEMES.items()},
    "fine-grained": fp8(weight_block_size=[128, 128], modules_to_not_convert=["lm_head"]),
    "a scale a tensor": fp8(ignored_layers=["lm_head"]),
    "static": fp8(activation_scheme="static"),
}


@pytest.mark.parametrize("name", FP8_CONFIGS)
def test_a_model_is_quantized_as_its_config_says(name):
    """De-quantized on a processor without FP8: near the dense model, and not the same."""
    raw = config("qwen2", hidden_size=256, intermediate_size=384, tie_word_embeddings=False)
    dense = random_model(raw, "c", FLOAT32, 0)
    quantized = random_model(raw | {"quantization_config": FP8_CONFIGS[name]}, "c", FLOAT32, 0)
    head = [m.vocabulary.head(torch.eye(256)) for m in (dense, quantized)]
    assert torch.equal(*head)
    weights = [m.layers[0].mlp.down(torch.eye(384)) for m in (dense, quantized)]
    error = (weights[0] - weights[1]).norm() / weights[0].norm()
    assert 0.01 < error < 0.04


def test_fp8_stays_fp8_where_it_is_multiplied():
    raw = config("qwen2", hidden_size=256, intermediate_size=384)
    raw["quantization_config"] = SCHEMES["fp8-block"].quantization_config(["lm_head"])
    place = Placement(torch.float32, CPU, fp8=True)
    mlp = random_model(raw, "c", place, 0).layers[0].mlp
    assert mlp.down.input_form == mlp.gate_up.input_form == InputForm(128)


def test_imagined_headers_follow_the_exclusions():
    raw = config("llama", tie_word_embeddings=False)
    raw["quantization_config"] = fp8(
        weight_block_size=[128, 128], modules_to_not_convert=["lm_head", "model.layers.0.mlp"]
    )
    parts = model_layout(raw, "c")
    entries = ImaginedHeaders.of(raw, parts.tensors, parts.linear_modules).entries
    quantized = {name for name, entry in entries.items() if entry.dtype == "F8_E4M3"}
    assert quantized == {
        f"{module}.weight"
        for module in parts.linear_modules
        if module != "lm_head" and not module.startswith("model.layers.0.mlp.")
    }


def test_the_quantization_configs_are_what_compressed_tensors_reads():
    for name in SCHEMES:
        QuantizationConfig.model_validate(FP8_CONFIGS[name])


def test_what_cannot_be_built_is_an_input_error():
    with pytest.raises(InputError, match="model_type 'mamba'"):
        random_model({"model_type": "mamba"}, "config.json", FLOAT32, 0)
    with pytest.raises(InputError, match="quantization method 'gptq'"):
        raw = config("llama") | {"quantization_config": {"quant_method": "gptq"}}
        random_model(raw, "config.json", FLOAT32, 0)
