"""The engine gives what `transformers` gives from the same weights."""

from __future__ import annotations

import pytest
import torch
from all_logits import logits_of
from lfm2_checkpoints import greedy, random_prompts, rewrite_config, write_checkpoint

from hala_engine import Engine, EngineConfig, SamplingParams

CONFIGS = {
    "default": {},
    "attention_only": {"full_attn_idxs": [0, 1, 2, 3, 4]},
    "conv_only": {"full_attn_idxs": []},
    "conv_bias": {"conv_bias": True},
    "four_taps": {"conv_L_cache": 4},
    "two_taps": {"conv_L_cache": 2},
    "untied": {"tie_word_embeddings": False},
    "odd_heads": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48},
    "no_grouping": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "adjusted_ff": {
        "block_auto_adjust_ff_dim": True,
        "intermediate_size": 200,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.3,
    },
    "theta_eps": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "norm_eps": 1e-3,
    },
    "one_layer": {"num_hidden_layers": 1, "full_attn_idxs": [0]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits_match_at_every_position(name, tmp_path):
    oracle = write_checkpoint(tmp_path, seed=len(name), **CONFIGS[name])
    config = EngineConfig(
        device="cpu", dtype="float32", max_batch_size=4, max_batched_tokens=37, page_size=8
    )
    results = logits_of(Engine(tmp_path, config=config), random_prompts(7), new_tokens=6)
    for tokens, logits in results:
        with torch.inference_mode():
            expected = oracle(torch.tensor([tokens]), use_cache=False).logits[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_bfloat16_error_is_that_of_bfloat16(tmp_path):
    oracle = write_checkpoint(tmp_path)
    config = EngineConfig(device="cpu", dtype="bfloat16", max_batched_tokens=64)
    results = logits_of(Engine(tmp_path, config=config), random_prompts(8), new_tokens=4)
    rounded = type(oracle)(oracle.config).to(torch.bfloat16).eval()
    rounded.load_state_dict(oracle.state_dict())
    ours = theirs = 0.0
    for tokens, logits in results:
        with torch.inference_mode():
            exact = oracle(torch.tensor([tokens]), use_cache=False).logits[0]
            ours += (logits.float() - exact).norm().item()
            theirs += (
                (rounded(torch.tensor([tokens]), use_cache=False).logits[0].float() - exact)
                .norm()
                .item()
            )
    assert ours <= 1.25 * theirs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lfm2")
    oracle = write_checkpoint(directory, shard_size="60KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    prompts = random_prompts(64, seed=3)
    return directory, prompts, [greedy(oracle, prompt, 20) for prompt in prompts]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 64, "max_batched_tokens": 4096},
        {"max_batch_size": 7, "max_batched_tokens": 31},  # chunked, admitted at different times
        {"max_batch_size": 1},
        {"max_batch_size": 16, "deterministic": True},
    ],
    ids=["one_batch", "chunked", "one_at_a_time", "deterministic"],
)
def test_greedy_tokens_match_for_64_prompts(checkpoint, settings):
    directory, prompts, expected = checkpoint
    engine = Engine(directory, config=EngineConfig(device="cpu", dtype="float32", **settings))
    params = SamplingParams(max_new_tokens=20, ignore_eos=True)
    outputs = list(engine.generate(prompts, params))
    assert [output.token_ids for output in outputs] == expected
    assert [output.prompt_tokens for output in outputs] == [len(prompt) for prompt in prompts]
    assert engine.stats.cache_use == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_greedy_tokens_match_with_forced_preemption(checkpoint, deterministic, monkeypatch):
    directory, prompts, expected = checkpoint
    # Room for one and a half of the longest requests, while 16 want to run.
    monkeypatch.setattr("hala_engine.engine._plan_pages", lambda *_: 40)
    config = EngineConfig(
        device="cpu",
        dtype="float32",
        max_batch_size=16,
        max_batched_tokens=48,
        page_size=4,
        deterministic=deterministic,
    )
    engine = Engine(directory, config=config)
    params = SamplingParams(max_new_tokens=20, ignore_eos=True)
    outputs = list(engine.generate(prompts, params))
    assert engine.stats.preemptions > 0
    assert [output.token_ids for output in outputs] == expected
    assert engine.cache.free_pages == 40
    assert engine.cache.free_slots == 16


def test_older_config_spellings_load(tmp_path):
    oracle = write_checkpoint(tmp_path)
    rewrite_config(
        tmp_path,
        drop=("intermediate_size", "layer_types", "rope_parameters", "tie_word_embeddings"),
        block_ff_dim=96,
        full_attn_idxs=[1, 3],
        rope_theta=1000000.0,
        tie_embedding=True,
    )
    prompt = random_prompts(5)[-1]
    engine = Engine(tmp_path, config=EngineConfig(device="cpu", dtype="float32"))
    output = next(engine.generate([prompt], SamplingParams(max_new_tokens=12, ignore_eos=True)))
    assert output.token_ids == greedy(oracle, prompt, 12)


def test_a_hub_id_is_downloaded_through_huggingface_hub(tmp_path, monkeypatch):
    write_checkpoint(tmp_path)
    asked = {}

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    engine = Engine("LiquidAI/LFM2-350M", revision="v1", config=EngineConfig(device="cpu"))
    assert (asked["repo"], asked["revision"]) == ("LiquidAI/LFM2-350M", "v1")
    assert "*.safetensors" in asked["patterns"]
    assert engine.model_path == tmp_path
