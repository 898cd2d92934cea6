"""Model FLOPs of a training step, and the share of a device's peak that they come to (MFU).

Counted is what the mathematics of one step needs: a multiplication and an addition are two FLOPs,
and the backward pass costs twice the forward one, so

    blocks       6 x (parameters of their matrices) x real tokens
    output layer 6 x V x H x supervised tokens: only the positions that predict one meet it
    attention    12 x (query heads x head size) x (pairs of a token and one that it sees)

Pairs are counted per document, causal and within the window of a sliding layer. Never counted:
padding, what activation checkpointing computes again, embedding look-ups (they copy), norms,
activations and the 3-tap convolutions (well under 1%).
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import nn

PEAKS = {
    "GH200": 989e12,
    "GB200": 2500e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A40": 150e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 FLOP/s with float32 accumulation, from NVIDIA's data sheets (which print twice
these, "with sparsity", for most); the first name that is a word of the device's counts."""


@dataclass(frozen=True)
class ModelFlops:
    block_parameters: int  # of matrices that every token meets
    output_parameters: int  # of the output layer, vocabulary x hidden, tied or not
    attention: tuple[tuple[int, int | None, int], ...]
    """(query heads x head size, window or None, number of such layers)"""

    def step(self, lengths: np.ndarray, supervised: int) -> float:
        """FLOPs of forward and backward over documents of `lengths` [documents] tokens, of which
        `supervised` tokens are predicted."""
        tokens = int(lengths.sum())
        matrices = 6.0 * (self.block_parameters * tokens + self.output_parameters * supervised)
        return matrices + sum(
            12.0 * width * layers * visible_pairs(lengths, window)
            for width, window, layers in self.attention
        )


def visible_pairs(lengths: np.ndarray, window: int | None) -> int:
    """Pairs of a token and one that it sees: itself and those before it, at most `window`."""
    n = np.asarray(lengths, np.int64)
    seen_in_full = n if window is None else np.minimum(n, window)
    beyond = (n - seen_in_full) * (window or 0)
    return int((seen_in_full * (seen_in_full + 1) // 2 + beyond).sum())


def model_flops(model: nn.Module) -> ModelFlops:
    """Of a causal language model of `transformers`, on any device, "meta" included, or sharded."""
    config = model.config
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not output]
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    layers = Counter(
        config.sliding_window if kind == "sliding_attention" else None
        for kind in layer_types(config)
        if kind != "conv"
    )
    return ModelFlops(
        sum(p.numel() for p in matrices if p is not embedding),
        output.numel(),
        tuple((width, window, count) for window, count in layers.items()),
    )


def layer_types(config) -> list[str]:
    """What mixes tokens in each layer: full_attention, sliding_attention or conv."""
    return list(
        getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    )


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of the device of this name, or None for one that is not known."""
    words = ((rf"\b{name}\b", peak) for name, peak in PEAKS.items())
    return next((peak for word, peak in words if re.search(word, device_name)), None)
