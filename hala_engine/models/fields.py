"""Fields of config.json that architectures share, in their older and newer spellings."""

from __future__ import annotations

from hala_engine.errors import InputError
from hala_engine.layers.mlp import ACTIVATIONS

SLIDING, FULL = "sliding_attention", "full_attention"


def head_dim(c: dict) -> int:
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def kv_heads(c: dict) -> int:
    return c.get("num_key_value_heads") or c["num_attention_heads"]


def activation(c: dict, key: str, default: str = "silu") -> str:
    """The MLP's activation, which is under `key`."""
    name = c.get(key) or default
    if name not in ACTIVATIONS:
        raise InputError(
            f"config.json: activation {name!r} is not supported "
            f"(supported: {', '.join(sorted(ACTIVATIONS))})"
        )
    return name


def windows(c: dict, kinds: list[str]) -> tuple[int | None, ...]:
    """The window of each layer from its kind, sliding_attention or full_attention."""
    layers = c["num_hidden_layers"]
    if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
        raise InputError(
            f"config.json: layer_types must name {SLIDING} or {FULL} for {layers} layers"
        )
    window = c.get("sliding_window")
    if SLIDING in kinds and not (isinstance(window, int) and window > 0):
        raise InputError(f"config.json: sliding_window must be a positive number, not {window!r}")
    return tuple(window if kind == SLIDING else None for kind in kinds)
