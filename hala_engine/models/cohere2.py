"""Cohere2 (Command R7B, Command A): attention and MLP side by side, from one norm.

Oracle: `transformers` Cohere2ForCausalLM. A layer, with n = input_layernorm(h):

    h = h + self_attn(n) + mlp(n)

Sliding layers rotate neighbouring columns; full layers have no position encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheTensors
from hala_engine.layers.attention import NO_ROPE, Attention
from hala_engine.layers.linear import common_form
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import LayerNorm
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
class Cohere2Config(DecoderConfig):
    bias: bool
    logit_scale: float

    @classmethod
    def from_hf(cls, c: dict) -> Cohere2Config:
        """Reads config.json; older ones give a pattern, every how many layers one is full."""
        kinds = c.get("layer_types")
        if kinds is None:
            pattern = c.get("sliding_window_pattern", 4)
            layers = range(c["num_hidden_layers"])
            kinds = [SLIDING if (i + 1) % pattern else FULL for i in layers]
        shared = shared_fields(
            # transformers overrides a head_dim with this.
            c | {"head_dim": c["hidden_size"] // c["num_attention_heads"]},
            norm_eps=c.get("layer_norm_eps", 1e-5),
            max_positions=c.get("max_position_embeddings", 8192),
            tied=c.get("tie_word_embeddings", True),
        )
        return cls(
            **shared,
            windows=windows_of(c, kinds, window=4096),
            mlp_width=c["intermediate_size"],
            bias=c.get("attention_bias", False),
            logit_scale=c.get("logit_scale", 0.0625),
        )


class Layer(nn.Module):
    def __init__(self, w: Weights, c: Cohere2Config, window: int | None) -> None:
        super().__init__()
        self.rotates = window is not None
        self.attention = Attention(
            w.at("self_attn"),
            c.hidden,
            c.heads,
            c.kv_heads,
            c.head_dim,
            window=window,
            interleaved=True,
            bias=c.bias,
            out_bias=c.bias,
        )
        self.mlp = GatedMLP(w.at("mlp"), c.hidden, c.mlp_width, activation=c.activation)
        self.norm = LayerNorm(w, "input_layernorm", c.hidden, c.norm_eps)
        self.form = common_form(self.attention.qkv, self.mlp.gate_up)


class Cohere2(Decoder):
    def __init__(self, w: Weights, c: Cohere2Config) -> None:
        super().__init__(w, c, lambda w, window: Layer(w, c, window), c.windows)
        self.logit_scale = c.logit_scale
        self.final_norm = LayerNorm(w.at("model"), "norm", c.hidden, c.norm_eps)

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = self.rotary(batch.positions)
        residual, update = self.vocabulary.embed(batch.token_ids), None
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            h, residual = layer.norm.add(update, residual, layer.form)
            attended = layer.attention(h, batch, kv, rope if layer.rotates else NO_ROPE)
            update = layer.mlp(h, residual=attended)
        return self.final_norm.add(update, residual)[0]
