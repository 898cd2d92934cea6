"""config.json of the models that are measured with random weights, and miniatures of them."""

from __future__ import annotations

from typing import Any

from bench.checkpoint import Dims
from hala_engine.quantize.scheme import SCHEMES

Raw = dict[str, Any]


def lfm2_1b2() -> Raw:
    """LFM2-1.2B (LiquidAI/LFM2-1.2B/config.json)."""
    return {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 2048,
        "intermediate_size": 12288,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "conv_L_cache": 3,
        "max_position_embeddings": 128_000,
        "norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def lfm2(dims: Dims) -> Raw:
    """As `bench.checkpoint` writes it: the model of the CPU benchmark."""
    return {
        "model_type": "lfm2",
        "vocab_size": dims.vocab,
        "hidden_size": dims.hidden,
        "intermediate_size": dims.ff,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
        "full_attn_idxs": list(dims.attention_layers),
        "max_position_embeddings": dims.context,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    }


def llama_1b2() -> Raw:
    """Llama-3.2-1B's dimensions: attention alone, which transformers' continuous batching runs."""
    return {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def gemma2_9b() -> Raw:
    """Gemma2-9B's dimensions, which are Fanar-1-9B's."""
    return {
        "model_type": "gemma2",
        "vocab_size": 256_000,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


COMMAND_A_LAYERS = 64


def command_a(layers: int) -> Raw:
    """`layers` of command-a-translate's 64 (111B): three of four see a window of 4096."""
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    return {
        "model_type": "cohere2",
        "vocab_size": 256_000,
        "hidden_size": 12288,
        "intermediate_size": 36864,
        "num_hidden_layers": layers,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "sliding_window": 4096,
        "layer_types": [kinds[i % 4] for i in range(layers)],
        "logit_scale": 0.25,
        "max_position_embeddings": 16384,
        "layer_norm_eps": 1e-5,
        "rope_theta": 50_000.0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def miniature(raw: Raw) -> Raw:
    """The same kind of model, small enough for a test on a CPU."""
    layers = min(raw["num_hidden_layers"], 4)
    small = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
    }
    if "full_attn_idxs" in raw:
        small |= {"full_attn_idxs": [1, 3], "block_auto_adjust_ff_dim": False}
    if "layer_types" in raw:
        small["layer_types"] = raw["layer_types"][:layers]
    return raw | small


def in_fp8(raw: Raw) -> Raw:
    """With weights by channel and inputs by token in the layers' matrices (`fp8-dynamic`)."""
    return raw | {"quantization_config": SCHEMES["fp8-dynamic"].quantization_config(["lm_head"])}
