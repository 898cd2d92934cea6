"""The tensors of one forward pass, as models and layers see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hala_kernels.short_conv import ConvLayout


@dataclass(frozen=True)
class Batch:
    """T tokens of S sequences, packed: `num_decodes` sequences with one token each come first, then
    the prompt chunks."""

    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    kv_slots: torch.Tensor  # [T] int64: page * page_size + offset, where K and V of a token go
    page_table: torch.Tensor  # [S, W] int64
    state_slots: torch.Tensor  # [S] int64: convolution state of each sequence
    conv: ConvLayout | None
    num_decodes: int
    context_lens: torch.Tensor  # [S] int64: tokens of each sequence in the cache, this step's too
    prefill_bounds: torch.Tensor  # int64: chunk boundaries within the prefill tokens, from 0
    longest_chunk: int  # of the prompt chunks
    sampled_rows: torch.Tensor  # int64: rows whose logits a next token is drawn from


@dataclass(frozen=True)
class CacheSpec:
    """What a model keeps of a sequence between steps."""

    attention_layers: int
    kv_heads: int
    head_dim: int
    conv_layers: int
    conv_columns: int
    conv_width: int

    def bytes_per_token(self, itemsize: int) -> int:
        return 2 * self.attention_layers * self.kv_heads * self.head_dim * itemsize

    def bytes_per_sequence(self, itemsize: int) -> int:
        return self.conv_layers * self.conv_columns * self.conv_width * itemsize


@dataclass(frozen=True)
class CacheTensors:
    """The pools that `CacheSpec` asks for; an item for each layer of the kind, in layer order."""

    kv: list[tuple[torch.Tensor, torch.Tensor]]  # each [pages, page_size, kv_heads, head_dim]
    conv_states: list[torch.Tensor]  # each [slots, conv_columns, conv_width]
