"""Cohere2 (Command R7B, Command A): attention and MLP side by side, from one norm.

Oracle: `transformers` Cohere2ForCausalLM. A layer, with n = input_layernorm(h):

    h = h + self_attn(n) + mlp(n)

Sliding layers rotate neighbouring columns; full layers have no position encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheSpec, CacheTensors
from hala_engine.layers.attention import NO_ROPE, Attention
from hala_engine.layers.embedding import Vocabulary
from hala_engine.layers.linear import common_form
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import LayerNorm
from hala_engine.layers.rotary import RopeConfig, Rotary
from hala_engine.models import fields
from hala_engine.weights.loading import Weights


@dataclass(frozen=True)
class Cohere2Config:
    vocab_size: int
    hidden: int
    mlp_width: int
    windows: tuple[int | None, ...]  # one per layer
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool
    activation: str
    norm_eps: float
    logit_scale: float
    rope: RopeConfig
    max_positions: int
    tied: bool

    @classmethod
    def from_hf(cls, c: dict) -> Cohere2Config:
        """Reads config.json; older ones give a pattern, every how many layers one is full."""
        kinds = c.get("layer_types")
        if kinds is None:
            pattern = c.get("sliding_window_pattern", 4)
            kinds = [
                fields.SLIDING if (i + 1) % pattern else fields.FULL
                for i in range(c["num_hidden_layers"])
            ]
        return cls(
            vocab_size=c["vocab_size"],
            hidden=c["hidden_size"],
            mlp_width=c["intermediate_size"],
            windows=fields.windows({"sliding_window": 4096} | c, kinds),
            heads=c["num_attention_heads"],
            kv_heads=fields.kv_heads(c),
            head_dim=c["hidden_size"] // c["num_attention_heads"],
            bias=c.get("attention_bias", False),
            activation=fields.activation(c, "hidden_act"),
            norm_eps=c.get("layer_norm_eps", 1e-5),
            logit_scale=c.get("logit_scale", 0.0625),
            rope=RopeConfig.from_hf(c),
            max_positions=c.get("max_position_embeddings", 8192),
            tied=c.get("tie_word_embeddings", True),
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


class Cohere2(nn.Module):
    """The whole model; `forward` gives hidden states [T, hidden], `logits` the scores of rows
    before they are multiplied by `logit_scale`."""

    logit_softcap = None

    def __init__(self, w: Weights, c: Cohere2Config) -> None:
        super().__init__()
        self.config = c
        self.kv_heads = c.kv_heads // w.place.ranks
        self.logit_scale = c.logit_scale
        self.vocabulary = Vocabulary(w, c.vocab_size, c.hidden, tied=c.tied)
        layers = w.at("model").at("layers")
        self.layers = nn.ModuleList(
            Layer(layers.at(i), c, window) for i, window in enumerate(c.windows)
        )
        self.final_norm = LayerNorm(w.at("model"), "norm", c.hidden, c.norm_eps)
        self.rotary = Rotary(c.head_dim, c.rope, w.place.device)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a sequence keeps between steps."""
        c = self.config
        return CacheSpec(c.windows, self.kv_heads, c.head_dim)

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = self.rotary(batch.positions)
        residual, update = self.vocabulary.embed(batch.token_ids), None
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            h, residual = layer.norm.add(update, residual, layer.form)
            attended = layer.attention(h, batch, kv, rope if layer.rotates else NO_ROPE)
            update = layer.mlp(h, residual=attended)
        return self.final_norm.add(update, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden] -> [S, vocab]."""
        return self.vocabulary.logits(hidden)
