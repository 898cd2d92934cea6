"""FP8 products, as CUDA devices compute them, here by their reference: weights stay e4m3 and each
product's input is rounded to e4m3."""

from __future__ import annotations

import pytest
import torch
from all_logits import logits_of
from checkpoints import ARCHITECTURES, oracle_logits, random_prompts
from fp8_products import write_fp8_checkpoint
from rounding import assert_rounded_alike, round_cache, row_errors

from hala_engine import Engine, EngineConfig
from hala_engine.layers.linear import Fp8Product, Linear

# Heads and widths that end inside blocks of 128 rows and columns.
SIZES = {
    "hidden_size": 160,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
}

BIASES = {
    "lfm2": {"conv_bias": True},
    "cohere2": {"attention_bias": True},
    "gemma2": {"attention_bias": True},
    "qwen2": {},
    "llama": {"attention_bias": True, "mlp_bias": True},
}


@pytest.fixture(autouse=True)
def stay_fp8(monkeypatch):
    monkeypatch.setattr("hala_engine.engine.multiplies_fp8", lambda device: True)


def engine_of(directory, **settings) -> Engine:
    config = {"max_batch_size": 4, "max_batched_tokens": 37, "page_size": 8} | settings
    return Engine(directory, config=EngineConfig(device="cpu", dtype="float32", **config))


def fp8_modules(engine: Engine) -> set[str]:
    return {
        name
        for module in engine.model.modules()
        if isinstance(module, Linear) and isinstance(module._product, Fp8Product)
        for name in module.names
    }


def assert_alike(engine: Engine, oracle) -> None:
    tokens, logits = zip(*logits_of(engine, random_prompts(6), new_tokens=5), strict=True)
    assert_rounded_alike(logits, [oracle_logits(oracle, t) for t in tokens])


@pytest.mark.parametrize("inputs", ["token", "group", "tensor"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_rounded_inputs(architecture, inputs, tmp_path):
    oracle = write_fp8_checkpoint(tmp_path, architecture, inputs, **SIZES)
    engine = engine_of(tmp_path)
    linear = {n for n, m in oracle.named_modules() if isinstance(m, torch.nn.Linear)}
    assert fp8_modules(engine) == linear - {"lm_head"}
    assert_alike(engine, oracle)


@pytest.mark.parametrize("inputs", ["token", "group"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_biases_and_an_untied_head(architecture, inputs, tmp_path):
    oracle = write_fp8_checkpoint(
        tmp_path, architecture, inputs, tie_word_embeddings=False, **SIZES, **BIASES[architecture]
    )
    assert_alike(engine_of(tmp_path), oracle)


@pytest.mark.parametrize("inputs", ["token", "group", "tensor"])
def test_a_module_left_out_of_a_fused_product(inputs, tmp_path):
    left_out = ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj")
    oracle = write_fp8_checkpoint(tmp_path, "llama", inputs, left_out, **SIZES)
    engine = engine_of(tmp_path)
    names = fp8_modules(engine)
    assert "model.layers.0.self_attn.q_proj" not in names
    assert "model.layers.1.self_attn.q_proj" in names and "model.layers.1.mlp.down_proj" in names
    assert_alike(engine, oracle)


@pytest.mark.parametrize("architecture", ["gemma2", "lfm2"])
def test_an_fp8_cache_beside_fp8_products(architecture, tmp_path, monkeypatch):
    oracle = write_fp8_checkpoint(tmp_path, architecture, "token", **SIZES)
    round_cache(monkeypatch, oracle)
    assert_alike(engine_of(tmp_path, kv_cache_dtype="fp8"), oracle)


@pytest.mark.parametrize("inputs", ["token", "group", "tensor"])
def test_the_comparison_sees_that_inputs_are_rounded(inputs, tmp_path, monkeypatch):
    oracle = write_fp8_checkpoint(tmp_path, "qwen2", inputs, **SIZES)
    monkeypatch.setattr("hala_engine.engine.multiplies_fp8", lambda device: False)
    engine = engine_of(tmp_path)
    assert not fp8_modules(engine)
    for tokens, logits in logits_of(engine, random_prompts(3), new_tokens=2):
        assert row_errors(logits, oracle_logits(oracle, tokens)).min() > 1e-3
