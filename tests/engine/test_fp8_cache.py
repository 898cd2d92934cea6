"""`--kv-cache-dtype fp8`: K and V are kept in e4m3, with the checkpoint's scales if it has any."""

from __future__ import annotations

import pytest
import torch
from all_logits import logits_of
from checkpoints import (
    ARCHITECTURES,
    oracle_logits,
    random_prompts,
    rewrite_config,
    write_checkpoint,
)
from rounding import assert_rounded_alike, round_cache, row_errors
from safetensors.torch import load_file, save_file

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.errors import InputError

PROMPTS = random_prompts(7)


def fp8_engine(directory, **settings) -> Engine:
    config = {"max_batch_size": 4, "max_batched_tokens": 37, "page_size": 8} | settings
    return Engine(
        directory,
        config=EngineConfig(device="cpu", dtype="float32", kv_cache_dtype="fp8", **config),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_rounded_k_and_v(architecture, tmp_path, monkeypatch):
    oracle = write_checkpoint(tmp_path, architecture)
    engine = fp8_engine(tmp_path)
    assert all(layer.k.dtype == torch.float8_e4m3fn for layer in engine.cache.tensors.kv)
    tokens, logits = zip(*logits_of(engine, PROMPTS, new_tokens=11), strict=True)
    exact = [oracle_logits(oracle, t) for t in tokens]
    round_cache(monkeypatch, oracle)
    assert_rounded_alike(logits, [oracle_logits(oracle, t) for t in tokens])
    # e4m3 is off by up to 1/16 of a value, and up to five layers add their errors in squares.
    # That what is rounded shows at all says that the comparison above could fail.
    errors = torch.cat([row_errors(a, e) for a, e in zip(logits, exact, strict=True)])
    assert 1e-3 < errors.mean() < 5**0.5 / 16


def add_scales(directory, scales) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for layer, (k_scale, v_scale) in scales.items():
        tensors[f"model.layers.{layer}.self_attn.k_scale"] = k_scale
        tensors[f"model.layers.{layer}.self_attn.v_scale"] = v_scale
    save_file(tensors, path, metadata={"format": "pt"})


KV_SCHEME = {
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "format": "float-quantized",
    "config_groups": {},
    "kv_cache_scheme": {
        "num_bits": 8,
        "type": "float",
        "strategy": "tensor",
        "dynamic": False,
        "symmetric": True,
    },
}


@pytest.mark.parametrize("shape", [(1,), (), (2,), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("architecture", ["lfm2", "gemma2", "qwen2"])
def test_the_scales_of_a_checkpoint_are_used(architecture, shape, tmp_path, monkeypatch):
    oracle = write_checkpoint(tmp_path, architecture)
    layers = [i for i, layer in enumerate(oracle.model.layers) if hasattr(layer, "self_attn")]
    torch.manual_seed(5)
    # So small that the largest values saturate.
    scales = {
        i: (0.001 + 0.004 * torch.rand(shape), 0.001 + 0.004 * torch.rand(shape)) for i in layers
    }
    add_scales(tmp_path, scales)
    if shape != (2,):
        rewrite_config(tmp_path, quantization_config=KV_SCHEME)
    tokens, logits = zip(*logits_of(fp8_engine(tmp_path), PROMPTS, new_tokens=3), strict=True)
    plain = Engine(tmp_path, config=EngineConfig(device="cpu", dtype="float32"))
    for plain_tokens, ours in logits_of(plain, PROMPTS, new_tokens=3):
        exact = oracle_logits(oracle, plain_tokens)
        torch.testing.assert_close(ours, exact, atol=1e-4, rtol=0)
    round_cache(monkeypatch, oracle, scales)
    assert_rounded_alike(logits, [oracle_logits(oracle, t) for t in tokens])


def test_scales_of_another_number_are_refused(tmp_path):
    write_checkpoint(tmp_path, "llama")
    add_scales(tmp_path, {3: (torch.ones(3), torch.ones(1))})
    with pytest.raises(InputError, match=r"model\.layers\.3\.self_attn\.k_scale has"):
        fp8_engine(tmp_path)


@pytest.mark.parametrize("architecture", ["lfm2", "cohere2"])
def test_shared_prefixes_and_chunks_change_nothing(architecture, tmp_path):
    """Copied pages hold e4m3 too, and a prompt attends to its own K and V as they are kept."""
    write_checkpoint(tmp_path, architecture)
    head = random_prompts(5, seed=2)[-1][:21]
    prompts = [head + prompt for prompt in PROMPTS]
    params = SamplingParams(max_new_tokens=12, ignore_eos=True)
    sharing = fp8_engine(tmp_path)
    alone = fp8_engine(tmp_path, prefix_caching=False, max_batched_tokens=500)
    tokens = [
        [output.token_ids for output in engine.generate(prompts, params)]
        for engine in (sharing, alone)
    ]
    assert sharing.stats.shared_tokens > 0
    assert tokens[0] == tokens[1]
