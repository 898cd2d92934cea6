"""Qwen2 and Llama: pre-norm transformers that differ in their biases and windows.

Oracles: `transformers` Qwen2ForCausalLM and LlamaForCausalLM. A layer:

    h = h + self_attn(input_layernorm(h));  h = h + mlp(post_attention_layernorm(h))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheTensors
from hala_engine.layers.attention import Attention
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import RMSNorm
from hala_engine.models.decoder import (
    FULL,
    SLIDING,
    Decoder,
    DecoderConfig,
    shared_fields,
    windows_of,
)
from hala_engine.weights.loading import Weights


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(DecoderConfig):
    qkv_bias: bool
    out_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def from_qwen2(cls, c: dict) -> Qwen2Config:
        """From the config.json of a Qwen2 model: biases on q, k and v; windows in late layers."""
        layers, kinds = c["num_hidden_layers"], c.get("layer_types")
        c = {"sliding_window": 4096} | c
        if not c.get("use_sliding_window") or c["sliding_window"] is None:
            kinds = [FULL] * layers
        elif kinds is None:
            first = c.get("max_window_layers", 28)
            kinds = [SLIDING if i >= first else FULL for i in range(layers)]
        return cls._read(c, windows_of(c, kinds), qkv_bias=True)

    @classmethod
    def from_llama(cls, c: dict) -> Qwen2Config:
        """From the config.json of a Llama model."""
        bias = c.get("attention_bias", False)
        return cls._read(
            c,
            (None,) * c["num_hidden_layers"],
            qkv_bias=bias,
            out_bias=bias,
            mlp_bias=c.get("mlp_bias", False),
        )

    @classmethod
    def _read(cls, c: dict, windows: tuple[int | None, ...], **biases: bool) -> Qwen2Config:
        shared = shared_fields(
            c,
            norm_eps=c.get("rms_norm_eps", 1e-6),
            tied=c.get("tie_word_embeddings", False),
        )
        return cls(**shared, windows=windows, mlp_width=c["intermediate_size"], **biases)


class Layer(nn.Module):
    def __init__(self, w: Weights, c: Qwen2Config, window: int | None) -> None:
        super().__init__()
        self.attention = Attention(
            w.at("self_attn"),
            c.hidden,
            c.heads,
            c.kv_heads,
            c.head_dim,
            window=window,
            bias=c.qkv_bias,
            out_bias=c.out_bias,
        )
        self.mlp = GatedMLP(
            w.at("mlp"), c.hidden, c.mlp_width, activation=c.activation, bias=c.mlp_bias
        )
        self.input_norm = RMSNorm(w, "input_layernorm", c.hidden, c.norm_eps)
        self.mlp_norm = RMSNorm(w, "post_attention_layernorm", c.hidden, c.norm_eps)


class Qwen2(Decoder):
    def __init__(self, w: Weights, c: Qwen2Config) -> None:
        super().__init__(w, c, lambda w, window: Layer(w, c, window), c.windows)
        self.final_norm = RMSNorm(w.at("model"), "norm", c.hidden, c.norm_eps)

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = self.rotary(batch.positions)
        residual, update = self.vocabulary.embed(batch.token_ids), None
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            h, residual = layer.input_norm.add(update, residual, layer.attention.qkv.input_form)
            update = layer.attention(h, batch, kv, rope)
            h, residual = layer.mlp_norm.add(update, residual, layer.mlp.gate_up.input_form)
            update = layer.mlp(h)
        return self.final_norm.add(update, residual)[0]
