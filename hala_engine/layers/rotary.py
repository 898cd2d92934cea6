"""Rotary position embedding (RoFormer, arXiv 2104.09864) and the ways in which configurations
stretch it to longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from hala_engine.errors import InputError


@dataclass(frozen=True)
class RopeConfig:
    """`kind`: default, linear, llama3 or yarn; the other fields are those that it reads, by their
    names in config.json."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    @classmethod
    def from_hf(cls, c: dict, default_theta: float = 10_000.0) -> RopeConfig:
        """Reads `rope_parameters`, or `rope_theta` and `rope_scaling` of older configurations.

        Raises InputError for a kind that these models do not have, KeyError for a missing field.
        """
        beside = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        rope = {key: c[key] for key in beside if c.get(key) is not None}
        rope |= (c.get("rope_scaling") or {}) | (c.get("rope_parameters") or {})
        kind = rope.get("rope_type") or rope.get("type") or "default"
        theta = float(rope.get("rope_theta") or default_theta)
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise InputError("config.json: partial_rotary_factor other than 1 is not supported")
        if kind in ("default", "dynamic"):
            # Dynamic scaling begins beyond max_position_embeddings, where this engine ends.
            return cls(theta)
        if kind == "linear":
            return cls(theta, kind, float(rope["factor"]))
        original = rope.get("original_max_position_embeddings")
        original = original or c.get("max_position_embeddings")
        if kind == "llama3":
            return cls(
                theta,
                kind,
                float(rope["factor"]),
                original,
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
            )
        if kind == "yarn":
            factor = float(rope.get("factor") or c["max_position_embeddings"] / original)
            return cls(
                theta,
                kind,
                factor,
                original,
                beta_fast=float(rope.get("beta_fast") or 32),
                beta_slow=float(rope.get("beta_slow") or 1),
                truncate=rope.get("truncate", True),
                attention_factor=_yarn_attention_factor(rope, factor),
            )
        raise InputError(
            f"config.json: rope_type {kind!r} is not supported "
            "(supported: default, dynamic, linear, llama3, yarn)"
        )


class Rotary(nn.Module):
    """The angles of positions; one for all layers of a model."""

    def __init__(self, head_dim: int, config: RopeConfig, device: torch.device) -> None:
        super().__init__()
        self.attention_factor = config.attention_factor
        frequencies = inverse_frequencies(head_dim, config).to(device)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [T, head_dim / 2] float32, of `positions` [T]."""
        angles = positions.unsqueeze(1).float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        if self.attention_factor != 1.0:
            cos, sin = cos * self.attention_factor, sin * self.attention_factor
        return cos, sin


def inverse_frequencies(head_dim: int, c: RopeConfig) -> torch.Tensor:
    """[head_dim / 2] float32: what a position is multiplied by, for each pair of columns."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / c.theta**exponents
    if c.kind == "linear":
        return frequencies / c.factor
    if c.kind == "llama3":
        return _llama3(frequencies, c)
    if c.kind == "yarn":
        return _yarn(frequencies, head_dim, c)
    return frequencies


def _llama3(frequencies: torch.Tensor, c: RopeConfig) -> torch.Tensor:
    """Llama 3.1: waves that turn often within the original context stay, those that turn seldom
    are stretched, and between the two there is a ramp."""
    turns = c.original_positions * frequencies / (2 * math.pi)
    kept = (turns - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor)
    return _between(frequencies / c.factor, frequencies, kept.clamp(0, 1))


def _yarn(frequencies: torch.Tensor, head_dim: int, c: RopeConfig) -> torch.Tensor:
    """YaRN (arXiv 2309.00071): the same idea, with the ramp over the index of the frequency."""

    def index_with(turns: float) -> float:
        ratio = c.original_positions / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(c.theta))

    low, high = index_with(c.beta_fast), index_with(c.beta_slow)
    if c.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    stretched = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / width
    return _between(frequencies, frequencies / c.factor, stretched.clamp(0, 1))


def _between(at_zero: torch.Tensor, at_one: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return at_zero * (1 - share) + at_one * share


def _yarn_attention_factor(rope: dict, factor: float) -> float:
    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
    return magnitude(1.0)
