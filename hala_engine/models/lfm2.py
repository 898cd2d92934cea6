"""LFM2 (Liquid AI): gated short convolutions, with grouped-query attention at some layers.

Oracle: `transformers` Lfm2ForCausalLM. A layer:

    h = h + operator(operator_norm(h));  h = h + feed_forward(ffn_norm(h))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.batch import Batch, CacheSpec, CacheTensors
from hala_engine.errors import InputError
from hala_engine.layers.attention import Attention
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import RMSNorm
from hala_engine.layers.short_conv import ShortConv
from hala_engine.models.decoder import FULL, Decoder, DecoderConfig, shared_fields
from hala_engine.weights.loading import Weights
from hala_kernels.short_conv import TAPS

CONV = "conv"


@dataclass(frozen=True, kw_only=True)
class Lfm2Config(DecoderConfig):
    layer_types: tuple[str, ...]  # one per layer, conv or full_attention
    conv_taps: int
    conv_bias: bool

    @classmethod
    def from_hf(cls, c: dict) -> Lfm2Config:
        """Reads config.json in its older and newer spellings."""
        layers = c["num_hidden_layers"]
        kinds = c.get("layer_types")
        if kinds is None:
            attention = c.get("full_attn_idxs")
            attention = range(layers) if attention is None else attention
            kinds = [FULL if i in attention else CONV for i in range(layers)]
        if len(kinds) != layers or not set(kinds) <= {CONV, FULL}:
            raise InputError(
                f"config.json: layer_types must name conv or full_attention for {layers} layers"
            )
        taps = c.get("conv_L_cache", 3)
        if CONV in kinds and taps not in TAPS:
            raise InputError(f"config.json: conv_L_cache must be 2, 3 or 4, not {taps}")
        shared = shared_fields(
            {"rope_theta": c.get("theta", 1_000_000.0)} | c,
            norm_eps=c.get("norm_eps", 1e-5),
            activation="silu",
            max_positions=c.get("max_position_embeddings", 128_000),
            tied=c.get("tie_embedding", c.get("tie_word_embeddings", True)),
        )
        return cls(
            **shared,
            windows=(None,) * kinds.count(FULL),
            mlp_width=_mlp_width(c),
            layer_types=tuple(kinds),
            conv_taps=taps,
            conv_bias=c.get("conv_bias", False),
        )


def _mlp_width(c: dict) -> int:
    width = c.get("block_ff_dim", c.get("intermediate_size"))
    if width is None:
        raise KeyError("intermediate_size")
    if c.get("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        multiplier = c.get("block_ffn_dim_multiplier", 1.0)
        if multiplier is not None:
            multiple = c.get("block_multiple_of", 256)
            width = -(-int(multiplier * width) // multiple) * multiple
    return width


class Layer(nn.Module):
    def __init__(self, w: Weights, c: Lfm2Config, kind: str) -> None:
        super().__init__()
        self.is_conv = kind == CONV
        if self.is_conv:
            self.operator = ShortConv(w.at("conv"), c.hidden, c.conv_taps, bias=c.conv_bias)
            self.input_form = self.operator.in_proj.input_form
        else:
            self.operator = Attention(
                w.at("self_attn"),
                c.hidden,
                c.heads,
                c.kv_heads,
                c.head_dim,
                out="out_proj",
                qk_norm_eps=c.norm_eps,
            )
            self.input_form = self.operator.qkv.input_form
        self.feed_forward = GatedMLP(
            w.at("feed_forward"), c.hidden, c.mlp_width, ("w1", "w3", "w2")
        )
        self.operator_norm = RMSNorm(w, "operator_norm", c.hidden, c.norm_eps)
        self.ffn_norm = RMSNorm(w, "ffn_norm", c.hidden, c.norm_eps)


class Lfm2(Decoder):
    def __init__(self, w: Weights, c: Lfm2Config) -> None:
        super().__init__(w, c, lambda w, kind: Layer(w, c, kind), c.layer_types)
        self.final_norm = RMSNorm(w.at("model"), "embedding_norm", c.hidden, c.norm_eps)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a sequence keeps between steps."""
        c = self.config
        return CacheSpec(
            c.windows,
            self.kv_heads,
            c.head_dim,
            conv_layers=c.layer_types.count(CONV),
            conv_columns=c.conv_taps - 1,
            conv_width=c.hidden,
        )

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = self.rotary(batch.positions)
        kv, states = iter(cache.kv), iter(cache.conv_states)
        residual, update = self.vocabulary.embed(batch.token_ids), None
        for layer in self.layers:
            h, residual = layer.operator_norm.add(update, residual, layer.input_form)
            if layer.is_conv:
                update = layer.operator(h, batch, next(states))
            else:
                update = layer.operator(h, batch, next(kv), rope)
            form = layer.feed_forward.gate_up.input_form
            h, residual = layer.ffn_norm.add(update, residual, form)
            update = layer.feed_forward(h)
        return self.final_norm.add(update, residual)[0]
