"""The configurations in which each architecture is compared with `transformers`: by name, and some
drawn at random."""

from __future__ import annotations

import random

from checkpoints import ARCHITECTURES

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 5e3},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    # It begins to scale beyond max_position_embeddings, where the engine ends.
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    },
    "yarn_mscale": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "truncate": False,
    },
    "yarn_attention_factor": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "attention_factor": 0.8,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
}

ODD_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48}

COMMON = {
    "defaults": {},
    "odd_heads": ODD_HEADS,
    "no_grouping": {"num_key_value_heads": 4},
    "one_layer": {"num_hidden_layers": 1},
    "sharded": {"shard_size": "40KB"},
    **{f"rope_{name}": {"rope_parameters": rope} for name, rope in ROPES.items()},
}

HEAD_DIM = {"odd_heads_of_20": ODD_HEADS | {"head_dim": 20}, "wide_heads": {"head_dim": 48}}

SLIDING, FULL = "sliding_attention", "full_attention"

WINDOWS = {
    "window_1": {"sliding_window": 1},
    "window_of_a_page": {"sliding_window": 8},
    "window_beyond_a_page": {"sliding_window": 9},
    "window_of_five_pages": {"sliding_window": 37},
    "window_beyond_everything": {"sliding_window": 500},
    "all_sliding": {"layer_types": [SLIDING] * 5},
    "all_full": {"layer_types": [FULL] * 5},
    "sliding_in_the_middle": {"layer_types": [FULL, SLIDING, SLIDING, SLIDING, FULL]},
}

LFM2 = {
    "attention_only": {"full_attn_idxs": [0, 1, 2, 3, 4]},
    "conv_only": {"full_attn_idxs": []},
    "layer_types": {"layer_types": [FULL, "conv", "conv", FULL, FULL]},
    "conv_bias": {"conv_bias": True},
    "four_taps": {"conv_L_cache": 4},
    "two_taps": {"conv_L_cache": 2},
    "untied": {"tie_word_embeddings": False},
    "eps": {"norm_eps": 1e-2},
    "adjusted_ff": {
        "block_auto_adjust_ff_dim": True,
        "intermediate_size": 200,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.3,
    },
}

COHERE2 = {
    "biases": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "logit_scale": {"logit_scale": 0.0625},
    "eps": {"layer_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
}

GEMMA2 = {
    "no_caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    "attention_cap_only": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": None},
    "logit_cap_only": {"attn_logit_softcapping": None, "final_logit_softcapping": 3.0},
    "published_caps": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "query_scalar": {"query_pre_attn_scalar": 7},
    "biases": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "eps": {"rms_norm_eps": 1e-2},
    "silu": {"hidden_activation": "silu"},
}

LATE = {"use_sliding_window": True, "max_window_layers": 1}

QWEN2 = {
    "tied": {"tie_word_embeddings": True},
    "eps": {"rms_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "windows_unused": {"sliding_window": 5, "max_window_layers": 1},
    "no_window_layers": LATE | {"sliding_window": 5, "max_window_layers": 9},
    "window_null": LATE | {"sliding_window": None},
    "late_windows": LATE | {"sliding_window": 13, "max_window_layers": 2},
    **{name: LATE | window for name, window in WINDOWS.items()},
}

LLAMA = {
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "all_biases": {"attention_bias": True, "mlp_bias": True},
    "eps": {"rms_norm_eps": 1e-2},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
}

NAMED = {
    "lfm2": COMMON | HEAD_DIM | LFM2,
    "cohere2": COMMON | WINDOWS | COHERE2,
    "gemma2": COMMON | HEAD_DIM | WINDOWS | GEMMA2,
    "qwen2": COMMON | HEAD_DIM | QWEN2,
    "llama": COMMON | HEAD_DIM | LLAMA,
}

DRAWN = 4


def drawn(architecture: str, number: int) -> dict:
    """Settings drawn at random, always the same for a number."""
    draw = random.Random(f"{architecture} {number}")
    kv_heads = draw.choice([1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 3, 5])
    layers = draw.choice([2, 3, 4, 6])
    settings = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": heads * draw.choice([8, 10, 14]),
        "intermediate_size": draw.choice([40, 72, 104]),
        "tie_word_embeddings": draw.random() < 0.5,
        "rope_parameters": draw.choice(list(ROPES.values())),
    }
    if architecture != "cohere2":
        settings["head_dim"] = draw.choice([8, 18, 32])
    kinds = ["conv", FULL] if architecture == "lfm2" else [SLIDING, FULL]
    if architecture != "llama":
        settings["layer_types"] = [draw.choice(kinds) for _ in range(layers)]
        settings["sliding_window"] = draw.choice([2, 7, 16, 19, 50])
    if architecture == "qwen2":
        settings["use_sliding_window"] = True
    if architecture in ("cohere2", "gemma2", "llama"):
        settings["attention_bias"] = draw.random() < 0.5
    if architecture == "gemma2":
        settings["attn_logit_softcapping"] = draw.choice([None, 3.0])
        settings["final_logit_softcapping"] = draw.choice([None, 5.0])
    return settings


CONFIGURATIONS = {
    f"{architecture}-{name}": (architecture, overrides)
    for architecture in ARCHITECTURES
    for name, overrides in [
        *NAMED[architecture].items(),
        *((f"drawn_{i}", drawn(architecture, i)) for i in range(DRAWN)),
    ]
}
"""Name -> architecture and what is set otherwise than in `checkpoints`."""
