"""The engine gives the logits that `transformers` gives from the same weights."""

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
from configurations import CONFIGURATIONS, ROPES
from transformers import AutoModelForCausalLM

from hala_engine import Engine, EngineConfig

PAGE = 8
NEW_TOKENS = 2 * PAGE + 3
CUT = EngineConfig(
    device="cpu", dtype="float32", max_batch_size=4, max_batched_tokens=37, page_size=PAGE
)
"""Prompts are longer than the steps' 37 tokens and than most windows."""


def assert_parity(directory, oracle) -> None:
    engine = Engine(directory, config=CUT)
    for tokens, logits in logits_of(engine, random_prompts(7), NEW_TOKENS):
        torch.testing.assert_close(logits, oracle_logits(oracle, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_float32_logits_match_at_every_position(name, tmp_path):
    architecture, overrides = CONFIGURATIONS[name]
    assert_parity(tmp_path, write_checkpoint(tmp_path, architecture, **overrides))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_error_is_that_of_bfloat16(architecture, tmp_path):
    oracle = write_checkpoint(tmp_path, architecture)
    config = EngineConfig(device="cpu", dtype="bfloat16", max_batched_tokens=64)
    results = logits_of(Engine(tmp_path, config=config), random_prompts(8), new_tokens=4)
    rounded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager"
    )
    ours = theirs = 0.0
    for tokens, logits in results:
        exact = oracle_logits(oracle, tokens)
        ours += (logits.float() - exact).norm().item()
        theirs += (oracle_logits(rounded, tokens).float() - exact).norm().item()
    assert 0 < ours <= 1.25 * theirs


@pytest.mark.parametrize("architecture", ["cohere2", "gemma2", "qwen2"])
def test_the_oracle_sees_a_window_of_that_many_tokens_the_own_one_included(architecture, tmp_path):
    oracle = write_checkpoint(
        tmp_path,
        architecture,
        num_hidden_layers=1,
        layer_types=["sliding_attention"],
        sliding_window=5,
        use_sliding_window=True,
    )
    tokens = [*range(20, 40)]
    before = oracle_logits(oracle, tokens)
    changed = oracle_logits(oracle, [*tokens[:10], 99, *tokens[11:]])
    differs = (before != changed).any(dim=1).nonzero().flatten().tolist()
    assert differs == [10, 11, 12, 13, 14]


OLD_ROPE = {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2.0}}

SPELLINGS = {
    "lfm2": (
        ("intermediate_size", "layer_types", "rope_parameters", "tie_word_embeddings"),
        {"block_ff_dim": 96, "full_attn_idxs": [1, 3], "rope_theta": 5e3, "tie_embedding": True},
    ),
    "cohere2": (
        ("layer_types", "rope_parameters"),
        {"sliding_window_pattern": 2, "rope_theta": 5e4, "rope_scaling": None},
    ),
    "gemma2": (
        ("layer_types", "rope_parameters", "attention_bias"),
        {"rope_theta": 5e3, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
    ),
    "qwen2": (
        ("layer_types", "rope_parameters"),
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2, **OLD_ROPE},
    ),
    "llama": (
        ("head_dim", "rope_parameters", "mlp_bias", "attention_bias"),
        {"rope_theta": 5e4, "rope_scaling": ROPES["llama3"], "pretraining_tp": 1},
    ),
}
"""Keys that older configurations lack, and those that they have instead."""


@pytest.mark.parametrize("architecture", SPELLINGS)
def test_older_spellings_of_config_json(architecture, tmp_path):
    write_checkpoint(tmp_path, architecture)
    drop, changes = SPELLINGS[architecture]
    rewrite_config(tmp_path, drop=drop, **changes)
    oracle = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    assert_parity(tmp_path, oracle)
