"""The tensors of one forward pass, as models and layers see them, and what a model keeps of a
sequence between steps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import torch

from hala_kernels.short_conv import ConvLayout


@dataclass(frozen=True)
class Pages:
    """Where the K and V of a group of layers are."""

    table: torch.Tensor  # [S, W] int64: pages of each sequence, 0 where none is held any more
    slots: torch.Tensor  # [T] int64: page * page_size + offset, where K and V of a token go


@dataclass(frozen=True)
class Batch:
    """T tokens of S sequences, packed: `num_decodes` sequences with one token each come first, then
    the prompt chunks."""

    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    pages: tuple[Pages, ...]  # one for each of the cache's groups
    state_slots: torch.Tensor  # [S] int64: convolution state of each sequence
    conv: ConvLayout | None
    num_decodes: int
    context_lens: torch.Tensor  # [S] int64: tokens of each sequence in the cache, this step's too
    prefill_bounds: torch.Tensor  # int64: chunk boundaries within the prefill tokens, from 0
    longest_chunk: int  # of the prompt chunks
    sampled_rows: torch.Tensor  # int64: rows whose logits a next token is drawn from


@dataclass(frozen=True)
class Group:
    """Attention layers whose K and V share page numbers; `layers` counts attention layers only."""

    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True)
class CacheSpec:
    """What a model keeps of a sequence between steps: K and V for each attention layer, `windows`
    saying of each how many positions it still sees (None: all), and convolution states."""

    windows: tuple[int | None, ...]
    kv_heads: int
    head_dim: int
    conv_layers: int = 0
    conv_columns: int = 0
    conv_width: int = 0

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The attention layers in groups of one window and, so that all pages are alike, about one
        size: that of the least frequent window. A smaller last group leaves room unused."""
        by_window: dict[int | None, list[int]] = defaultdict(list)
        for layer, window in enumerate(self.windows):
            by_window[window].append(layer)
        if not by_window:
            return ()
        size = min(map(len, by_window.values()))
        return tuple(
            Group(window, tuple(layers[i : i + size]))
            for window, layers in by_window.items()
            for i in range(0, len(layers), size)
        )

    @property
    def layers_per_page(self) -> int:
        return max((len(group.layers) for group in self.groups), default=0)

    def page_bytes(self, page_size: int, itemsize: int) -> int:
        """Of one page: K and V of `page_size` tokens in the layers of a group."""
        return 2 * self.layers_per_page * page_size * self.kv_heads * self.head_dim * itemsize

    def state_bytes(self, itemsize: int) -> int:
        """Of a sequence's convolution states."""
        return self.conv_layers * self.conv_columns * self.conv_width * itemsize

    def pages(self, tokens: int, page_size: int, chunk: int) -> int:
        """The most pages that a sequence of `tokens` holds at once, computed in chunks of up to
        `chunk`: all of them, or in a window's layers what the window and a chunk reach."""
        total = 0
        for group in self.groups:
            held = -(-tokens // page_size)
            if group.window is not None:
                held = min(held, (group.window + chunk - 3) // page_size + 2)
            total += held
        return total


@dataclass(frozen=True)
class LayerCache:
    """K and V of one layer, each [pages, page_size, kv_heads, head_dim], and the layer's group."""

    k: torch.Tensor
    v: torch.Tensor
    group: int

    @property
    def is_fp8(self) -> bool:
        return self.k.dtype == torch.float8_e4m3fn


@dataclass(frozen=True)
class CacheTensors:
    """The pools that `CacheSpec` asks for; an item for each layer of the kind, in layer order."""

    kv: list[LayerCache]
    conv_states: list[torch.Tensor]  # each [slots, conv_columns, conv_width]
