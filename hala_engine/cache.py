"""Where sequences keep their state: K and V in pages, convolution states in slots.

The tensors are allocated once. A sequence holds one slot while it runs, and pages as it grows; the
page table row of its slot says which. Page 0 is never given out: it stays finite, so that padding
may point at it.
"""

from __future__ import annotations

import numpy as np
import torch

from hala_engine.batch import CacheSpec, CacheTensors


class Cache:
    """Pools for `max_sequences` running sequences and `num_pages` pages of `page_size` tokens."""

    def __init__(
        self,
        spec: CacheSpec,
        *,
        num_pages: int,
        page_size: int,
        max_sequences: int,
        max_model_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        pages = (num_pages + 1, page_size, spec.kv_heads, spec.head_dim)
        states = (max_sequences, spec.conv_columns, spec.conv_width)

        # Zeros, not empty: masked entries are multiplied by 0, and 0 * NaN is NaN. On the CPU the
        # operating system hands out zeroed memory on first touch, so an unused page costs nothing.
        def pool(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.tensors = CacheTensors(
            kv=[(pool(pages), pool(pages)) for _ in range(spec.attention_layers)],
            conv_states=[pool(states) for _ in range(spec.conv_layers)],
        )
        self.page_table = np.zeros((max_sequences, -(-max_model_len // page_size)), dtype=np.int64)
        self._pages_of = np.zeros(max_sequences, dtype=np.int64)
        self._free_pages = list(range(num_pages, 0, -1))
        self._free_slots = list(range(max_sequences - 1, -1, -1))

    @property
    def free_pages(self) -> int:
        return len(self._free_pages)

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def open_slot(self) -> int:
        """A slot for a new sequence, its convolution states zero."""
        slot = self._free_slots.pop()
        for states in self.tensors.conv_states:
            states[slot].zero_()
        return slot

    def grow(self, slot: int, tokens: int) -> bool:
        """Give the slot pages for its first `tokens` tokens; False, and no change, if too few."""
        have = int(self._pages_of[slot])
        need = self.pages_for(tokens) - have
        if need > len(self._free_pages):
            return False
        for i in range(have, have + need):
            self.page_table[slot, i] = self._free_pages.pop()
        self._pages_of[slot] = max(have, have + need)
        return True

    def close_slot(self, slot: int) -> None:
        """Take back the slot and its pages."""
        count = int(self._pages_of[slot])
        self._free_pages.extend(self.page_table[slot, :count].tolist())
        self.page_table[slot, :count] = 0
        self._pages_of[slot] = 0
        self._free_slots.append(slot)
