"""Names and shapes of the tensors of LFM2, Gemma2 and Qwen2 checkpoints, and their config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Dims:
    """Dimensions of a model. `attention`: the layers of LFM2 that are no convolutions."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    attention: tuple[int, ...]


def small_dims(vocab: int = 32, hidden: int = 16, layers: int = 4) -> Dims:
    """Heads of 8, two to each head of keys and values; every third layer of LFM2 is attention."""
    heads = hidden // 8
    attention = tuple(range(2, layers, 3))
    return Dims(vocab, hidden, layers, heads, max(1, heads // 2), 8, 2 * hidden, attention)


def tensor_shapes(kind: str, dims: Dims) -> Shapes:
    """Name -> shape of every tensor of a model. `kind`: a key of KINDS."""
    shapes = {"model.embed_tokens.weight": (dims.vocab, dims.hidden)}
    for i in range(dims.layers):
        layer = KINDS[kind].layer(dims, i)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes[KINDS[kind].norm] = (dims.hidden,)
    if not KINDS[kind].tied:
        shapes["lm_head.weight"] = (dims.vocab, dims.hidden)
    return shapes


def config(kind: str, dims: Dims, dtype: str) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "dtype": dtype,
        "vocab_size": dims.vocab,
        "hidden_size": dims.hidden,
        "intermediate_size": dims.ff,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "tie_word_embeddings": KINDS[kind].tied,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        **KINDS[kind].settings(dims),
    }


def _lfm2_layer(dims: Dims, layer: int) -> Shapes:
    h = dims.hidden
    if layer in dims.attention:
        mixer = _attention(dims, out="out_proj")
        mixer |= {f"self_attn.{name}_layernorm.weight": (dims.head_dim,) for name in "qk"}
    else:
        mixer = {
            "conv.conv.weight": (h, 1, 3),
            "conv.in_proj.weight": (3 * h, h),
            "conv.out_proj.weight": (h, h),
        }
    feed_forward = _gated(dims, ("w1", "w3", "w2"), "feed_forward")
    return {"operator_norm.weight": (h,), **mixer, "ffn_norm.weight": (h,), **feed_forward}


def _gemma2_layer(dims: Dims, layer: int) -> Shapes:
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    return _attention(dims) | _gated(dims) | {f"{name}.weight": (dims.hidden,) for name in norms}


def _qwen2_layer(dims: Dims, layer: int) -> Shapes:
    attention = _attention(dims)
    for name in "qkv":
        rows, _ = attention[f"self_attn.{name}_proj.weight"]
        attention[f"self_attn.{name}_proj.bias"] = (rows,)
    norms = ("input_layernorm", "post_attention_layernorm")
    return attention | _gated(dims) | {f"{name}.weight": (dims.hidden,) for name in norms}


def _attention(dims: Dims, out: str = "o_proj") -> Shapes:
    h, q, kv = dims.hidden, dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    shapes = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), out: (h, q)}
    return {f"self_attn.{name}.weight": shape for name, shape in shapes.items()}


def _gated(
    dims: Dims, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"), at: str = "mlp"
) -> Shapes:
    h, ff = dims.hidden, dims.ff
    shapes = zip(names, ((ff, h), (ff, h), (h, ff)), strict=True)
    return {f"{at}.{name}.weight": shape for name, shape in shapes}


def _lfm2_settings(dims: Dims) -> dict[str, Any]:
    return {
        "norm_eps": 1e-5,
        "conv_L_cache": 3,
        "conv_bias": False,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": list(dims.attention),
    }


def _gemma2_settings(dims: Dims) -> dict[str, Any]:
    return {
        "head_dim": dims.head_dim,
        "query_pre_attn_scalar": dims.head_dim,
        "sliding_window": 64,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }


def _qwen2_settings(dims: Dims) -> dict[str, Any]:
    return {"hidden_act": "silu", "rms_norm_eps": 1e-6}


@dataclass(frozen=True)
class Kind:
    """`layer`: shapes of a layer's tensors. `norm`: the one before the output."""

    layer: Callable[[Dims, int], Shapes]
    settings: Callable[[Dims], dict[str, Any]]
    norm: str = "model.norm.weight"
    tied: bool = True


KINDS = {
    "lfm2": Kind(_lfm2_layer, _lfm2_settings, norm="model.embedding_norm.weight"),
    "gemma2": Kind(_gemma2_layer, _gemma2_settings),
    "qwen2": Kind(_qwen2_layer, _qwen2_settings, tied=False),
}
"""By model_type."""
