"""Gemma2 (Google): norms before and after each block, soft-capped scores and logits.

Oracle: `transformers` Gemma2ForCausalLM. A layer:

    h = h + post_attention_layernorm(self_attn(input_layernorm(h)))
    h = h + post_feedforward_layernorm(mlp(pre_feedforward_layernorm(h)))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheTensors
from hala_engine.errors import InputError
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
class Gemma2Config(DecoderConfig):
    bias: bool
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None

    @classmethod
    def from_hf(cls, c: dict) -> Gemma2Config:
        if c.get("use_bidirectional_attention"):
            raise InputError("config.json: use_bidirectional_attention is not supported")
        kinds = c.get("layer_types")
        if kinds is None:
            kinds = [FULL if i % 2 else SLIDING for i in range(c["num_hidden_layers"])]
        shared = shared_fields(
            {"head_dim": 256} | c,
            norm_eps=c.get("rms_norm_eps", 1e-6),
            activation=c.get("hidden_activation") or "gelu_pytorch_tanh",
            max_positions=c.get("max_position_embeddings", 8192),
            tied=c.get("tie_word_embeddings", True),
        )
        return cls(
            **shared,
            windows=windows_of(c, kinds, window=4096),
            mlp_width=c["intermediate_size"],
            bias=c.get("attention_bias", False),
            attention_scale=c.get("query_pre_attn_scalar", 256) ** -0.5,
            attention_softcap=c.get("attn_logit_softcapping", 50.0),
            logit_softcap=c.get("final_logit_softcapping", 30.0),
        )


class Layer(nn.Module):
    def __init__(self, w: Weights, c: Gemma2Config, window: int | None) -> None:
        super().__init__()
        self.attention = Attention(
            w.at("self_attn"),
            c.hidden,
            c.heads,
            c.kv_heads,
            c.head_dim,
            scale=c.attention_scale,
            window=window,
            softcap=c.attention_softcap,
            bias=c.bias,
            out_bias=c.bias,
        )
        self.mlp = GatedMLP(w.at("mlp"), c.hidden, c.mlp_width, activation=c.activation)

        def norm(name: str) -> RMSNorm:
            return RMSNorm(w, name, c.hidden, c.norm_eps, plus_one=True)

        self.before_attention = norm("input_layernorm")
        self.after_attention = norm("post_attention_layernorm")
        self.before_mlp = norm("pre_feedforward_layernorm")
        self.after_mlp = norm("post_feedforward_layernorm")


class Gemma2(Decoder):
    def __init__(self, w: Weights, c: Gemma2Config) -> None:
        super().__init__(w, c, lambda w, window: Layer(w, c, window), c.windows)
        self.logit_softcap = c.logit_softcap
        self.final_norm = RMSNorm(w.at("model"), "norm", c.hidden, c.norm_eps, plus_one=True)
        # As the trained model has it, rounded to the dtype of the embeddings.
        self.embedding_scale = torch.tensor(c.hidden**0.5, dtype=w.place.dtype).item()

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = self.rotary(batch.positions)
        residual = self.vocabulary.embed(batch.token_ids) * self.embedding_scale
        update = after = None
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            h, residual = layer.before_attention.add(
                update, residual, layer.attention.qkv.input_form, after=after
            )
            update = layer.attention(h, batch, kv, rope)
            h, residual = layer.before_mlp.add(
                update, residual, layer.mlp.gate_up.input_form, after=layer.after_attention
            )
            update, after = layer.mlp(h), layer.after_mlp
        return self.final_norm.add(update, residual, after=after)[0]
