"""The architecture of hala-mini-en-ar: a small LFM2 that stays under 12 MB in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

CONTEXT = 128
LAYERS = ("conv", "full_attention", "conv", "full_attention", "conv", "full_attention", "conv")


def config(vocab_size: int) -> dict:
    return {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "vocab_size": vocab_size,
        "hidden_size": 256,
        "intermediate_size": 512,
        "block_auto_adjust_ff_dim": False,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 64,
        "num_hidden_layers": len(LAYERS),
        "layer_types": list(LAYERS),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "conv_L_cache": 3,
        "conv_bias": False,
        "norm_eps": 1e-5,
        "initializer_range": 0.02,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 7,
        "dtype": "bfloat16",
    }


def count_parameters(values: dict) -> int:
    """Exact size of the model that `config` describes, embeddings counted once."""
    hidden, width = values["hidden_size"], values["intermediate_size"]
    head = hidden // values["num_attention_heads"]
    keys = head * values["num_key_value_heads"]
    convolution = hidden * 3 * hidden + hidden * hidden + hidden * values["conv_L_cache"]
    attention = 2 * hidden * hidden + 2 * hidden * keys + 2 * head
    shared = 3 * hidden * width + 2 * hidden
    total = values["vocab_size"] * hidden + hidden
    for kind in values["layer_types"]:
        total += shared + (convolution if kind == "conv" else attention)
    return total


def write_config(folder: Path, vocab_size: int) -> dict:
    values = config(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values
