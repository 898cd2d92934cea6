"""LFM2 (Liquid AI): gated short convolutions, with grouped-query attention at some layers.

Oracle: `transformers` Lfm2ForCausalLM. A layer:

    h = h + operator(operator_norm(h));  h = h + feed_forward(ffn_norm(h))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hala_engine.batch import Batch, CacheSpec, CacheTensors
from hala_engine.errors import InputError
from hala_engine.layers.attention import attend
from hala_engine.layers.linear import Linear, Placement, frozen
from hala_engine.layers.mlp import GatedMLP
from hala_engine.layers.norm import RMSNorm
from hala_engine.layers.rotary import rotary_table
from hala_kernels.rope_cache import rope_and_cache
from hala_kernels.short_conv import TAPS, short_conv


@dataclass(frozen=True)
class Lfm2Config:
    vocab_size: int
    hidden: int
    mlp_width: int
    layer_types: tuple[str, ...]  # "conv" or "full_attention"
    heads: int
    kv_heads: int
    head_dim: int
    conv_taps: int
    conv_bias: bool
    norm_eps: float
    rope_theta: float
    max_positions: int
    tied: bool

    @classmethod
    def from_hf(cls, c: dict) -> Lfm2Config:
        """Reads config.json in its older and newer spellings."""
        layers = c["num_hidden_layers"]
        kinds = c.get("layer_types")
        if kinds is None:
            attention = c.get("full_attn_idxs")
            attention = range(layers) if attention is None else attention
            kinds = ["full_attention" if i in attention else "conv" for i in range(layers)]
        if len(kinds) != layers or not set(kinds) <= {"conv", "full_attention"}:
            raise InputError(
                f"config.json: layer_types must name conv or full_attention for {layers} layers"
            )
        taps = c.get("conv_L_cache", 3)
        if "conv" in kinds and taps not in TAPS:
            raise InputError(f"config.json: conv_L_cache must be 2, 3 or 4, not {taps}")
        return cls(
            vocab_size=c["vocab_size"],
            hidden=c["hidden_size"],
            mlp_width=_mlp_width(c),
            layer_types=tuple(kinds),
            heads=c["num_attention_heads"],
            kv_heads=c["num_key_value_heads"],
            head_dim=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
            conv_taps=taps,
            conv_bias=c.get("conv_bias", False),
            norm_eps=c.get("norm_eps", 1e-5),
            rope_theta=_rope_theta(c),
            max_positions=c.get("max_position_embeddings", 128_000),
            tied=c.get("tie_embedding", c.get("tie_word_embeddings", True)),
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


def _rope_theta(c: dict) -> float:
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InputError(
            f"config.json: rope_type {kind!r} is not supported for lfm2 (only default)"
        )
    return float(rope.get("rope_theta", c.get("rope_theta", c.get("theta", 1_000_000.0))))


class Attention(nn.Module):
    def __init__(self, c: Lfm2Config, place: Placement) -> None:
        super().__init__()
        self.shape = (c.heads, c.kv_heads, c.head_dim)
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.qkv = Linear(c.hidden, {"q_proj": q, "k_proj": kv, "v_proj": kv}, place)
        self.out = Linear(q, {"out_proj": c.hidden}, place)
        self.q_norm = frozen(c.head_dim, place=place)
        self.k_norm = frozen(c.head_dim, place=place)
        self.eps = c.norm_eps

    def forward(self, x, batch: Batch, kv: tuple[torch.Tensor, torch.Tensor], rope) -> torch.Tensor:
        heads, kv_heads, dim = self.shape
        q, k, v = self.qkv(x).view(len(x), -1, dim).split((heads, kv_heads, kv_heads), dim=1)
        q = rope_and_cache(q, k, v, *rope, *kv, batch.kv_slots, self.q_norm, self.k_norm, self.eps)
        return self.out(attend(q, *kv, batch, dim**-0.5).flatten(1))

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        prefix += "self_attn."
        return (
            self.qkv.checkpoint_tensors(prefix)
            | self.out.checkpoint_tensors(prefix)
            | {
                f"{prefix}q_layernorm.weight": self.q_norm,
                f"{prefix}k_layernorm.weight": self.k_norm,
            }
        )


class ShortConv(nn.Module):
    def __init__(self, c: Lfm2Config, place: Placement) -> None:
        super().__init__()
        bias, hidden = c.conv_bias, c.hidden
        self.in_proj = Linear(hidden, {"in_proj": 3 * hidden}, place, bias)
        self.out_proj = Linear(hidden, {"out_proj": hidden}, place, bias)
        self.taps = frozen(c.conv_taps, hidden, place=place)  # so channels lie side by side
        self.bias = frozen(hidden, place=place) if bias else None

    def forward(self, x: torch.Tensor, batch: Batch, states: torch.Tensor) -> torch.Tensor:
        bcx = self.in_proj(x)
        return self.out_proj(
            short_conv(bcx, self.taps.t(), self.bias, states, batch.state_slots, batch.conv)
        )

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        prefix += "conv."
        tensors = self.in_proj.checkpoint_tensors(prefix) | self.out_proj.checkpoint_tensors(prefix)
        tensors[f"{prefix}conv.weight"] = self.taps.t().unsqueeze(1)  # Conv1d's [N, 1, K]
        if self.bias is not None:
            tensors[f"{prefix}conv.bias"] = self.bias
        return tensors


class Layer(nn.Module):
    def __init__(self, c: Lfm2Config, kind: str, place: Placement) -> None:
        super().__init__()
        self.operator = (ShortConv if kind == "conv" else Attention)(c, place)
        self.feed_forward = GatedMLP(c.hidden, c.mlp_width, ("w1", "w3", "w2"), place)
        self.operator_norm = RMSNorm(c.hidden, c.norm_eps, place)
        self.ffn_norm = RMSNorm(c.hidden, c.norm_eps, place)

    def checkpoint_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        return (
            self.operator.checkpoint_tensors(prefix)
            | self.feed_forward.checkpoint_tensors(f"{prefix}feed_forward.")
            | {
                f"{prefix}operator_norm.weight": self.operator_norm.weight,
                f"{prefix}ffn_norm.weight": self.ffn_norm.weight,
            }
        )


class Lfm2(nn.Module):
    """The whole model; `forward` gives hidden states [T, hidden], `logits` the scores of rows."""

    def __init__(self, c: Lfm2Config, place: Placement) -> None:
        super().__init__()
        self.config = c
        self.embedding = frozen(c.vocab_size, c.hidden, place=place)
        self.layers = nn.ModuleList(Layer(c, kind, place) for kind in c.layer_types)
        self.final_norm = RMSNorm(c.hidden, c.norm_eps, place)
        self.head = Linear(c.hidden, {"lm_head": c.vocab_size}, place)
        if c.tied:
            self.head.weight = self.embedding
        cos, sin = rotary_table(c.head_dim, c.rope_theta, c.max_positions, place.device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a sequence keeps between steps."""
        c = self.config
        return CacheSpec(
            attention_layers=c.layer_types.count("full_attention"),
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            conv_layers=c.layer_types.count("conv"),
            conv_columns=c.conv_taps - 1,
            conv_width=c.hidden,
        )

    def forward(self, batch: Batch, cache: CacheTensors) -> torch.Tensor:
        rope = (self.cos[batch.positions], self.sin[batch.positions])
        kv, states = iter(cache.kv), iter(cache.conv_states)
        residual = F.embedding(batch.token_ids, self.embedding)
        update = None
        for kind, layer in zip(self.config.layer_types, self.layers, strict=True):
            if update is None:
                h = layer.operator_norm(residual)
            else:
                h, residual = layer.operator_norm.add(update, residual)
            if kind == "conv":
                update = layer.operator(h, batch, next(states))
            else:
                update = layer.operator(h, batch, next(kv), rope)
            h, residual = layer.ffn_norm.add(update, residual)
            update = layer.feed_forward(h)
        return self.final_norm.add(update, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden] -> [S, vocab]."""
        return self.head(hidden)

    def checkpoint_tensors(self) -> dict[str, torch.Tensor]:
        """Name in the checkpoint -> the parameter, or the part of one, that it fills."""
        tensors = {
            "model.embed_tokens.weight": self.embedding,
            "model.embedding_norm.weight": self.final_norm.weight,
        }
        if not self.config.tied:
            tensors |= self.head.checkpoint_tensors("")
        for i, layer in enumerate(self.layers):
            tensors |= layer.checkpoint_tensors(f"model.layers.{i}.")
        return tensors
