"""Qwen2 and Llama: pre-norm transformers that differ in their biases and windows.

Oracles: `transformers` Qwen2ForCausalLM and LlamaForCausalLM. A layer:

    h = h + self_attn(input_layernorm(h));  h = h + mlp(post_attention_layernorm(h))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheSpec, CacheTensors
from hala_engine.layers.attention import Attention
from hala_engine.layers.embedding import Vocabulary
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import RMSNorm
from hala_engine.layers.rotary import RopeConfig, Rotary
from hala_engine.models import fields
from hala_engine.weights.loading import Weights


@dataclass(frozen=True)
class Qwen2Config:
    vocab_size: int
    hidden: int
    mlp_width: int
    windows: tuple[int | None, ...]  # one per layer
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    activation: str
    norm_eps: float
    rope: RopeConfig
    max_positions: int
    tied: bool

    @classmethod
    def from_qwen2(cls, c: dict) -> Qwen2Config:
        """From the config.json of a Qwen2 model: biases on q, k and v; windows in late layers."""
        c = {"sliding_window": 4096} | c
        kinds = c.get("layer_types")
        if not c.get("use_sliding_window") or c["sliding_window"] is None:
            kinds = [fields.FULL] * c["num_hidden_layers"]
        elif kinds is None:
            first = c.get("max_window_layers", 28)
            kinds = [
                fields.SLIDING if i >= first else fields.FULL for i in range(c["num_hidden_layers"])
            ]
        return cls._read(c, fields.windows(c, kinds), qkv_bias=True)

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
    def _read(
        cls,
        c: dict,
        windows: tuple[int | None, ...],
        *,
        qkv_bias: bool,
        out_bias: bool = False,
        mlp_bias: bool = False,
    ) -> Qwen2Config:
        return cls(
            vocab_size=c["vocab_size"],
            hidden=c["hidden_size"],
            mlp_width=c["intermediate_size"],
            windows=windows,
            heads=c["num_attention_heads"],
            kv_heads=fields.kv_heads(c),
            head_dim=fields.head_dim(c),
            qkv_bias=qkv_bias,
            out_bias=out_bias,
            mlp_bias=mlp_bias,
            activation=fields.activation(c, "hidden_act"),
            norm_eps=c.get("rms_norm_eps", 1e-6),
            rope=RopeConfig.from_hf(c),
            max_positions=c["max_position_embeddings"],
            tied=c.get("tie_word_embeddings", False),
        )


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


class Qwen2(nn.Module):
    """The whole model; `forward` gives hidden states [T, hidden], `logits` the scores of rows."""

    logit_scale = 1.0
    logit_softcap = None

    def __init__(self, w: Weights, c: Qwen2Config) -> None:
        super().__init__()
        self.config = c
        self.kv_heads = c.kv_heads // w.place.ranks
        self.vocabulary = Vocabulary(w, c.vocab_size, c.hidden, tied=c.tied)
        layers = w.at("model").at("layers")
        self.layers = nn.ModuleList(
            Layer(layers.at(i), c, window) for i, window in enumerate(c.windows)
        )
        self.final_norm = RMSNorm(w.at("model"), "norm", c.hidden, c.norm_eps)
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
            h, residual = layer.input_norm.add(update, residual, layer.attention.qkv.input_form)
            update = layer.attention(h, batch, kv, rope)
            h, residual = layer.mlp_norm.add(update, residual, layer.mlp.gate_up.input_form)
            update = layer.mlp(h)
        return self.final_norm.add(update, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden] -> [S, vocab]."""
        return self.vocabulary.logits(hidden)
