"""The sizes that steps are padded to on a GPU, and how a step is written down for one."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch

from hala_engine.packing import Packed
from hala_engine.schedule import Schedule

PROMPT_TOKENS = (64, 128, 256, 512, 1024, 2048)
"""Prompt tokens of the buckets. Larger steps keep the device busy for longer than their launches
take, so they run without a graph."""

MOST_PROMPTS = 64
"""Prompts of a bucket; a step with more runs without a graph."""

LEAST_PAGES = 32


@dataclass(frozen=True)
class Bucket:
    """Decode rows, prompt tokens, prompts, and pages of a sequence; `greedy`: every token is the
    argmax."""

    decodes: int
    tokens: int
    prompts: int
    pages: int
    greedy: bool

    @property
    def rows(self) -> int:
        return self.decodes + self.tokens

    @property
    def sequences(self) -> int:
        return self.decodes + self.prompts

    def holds(self, other: Bucket) -> bool:
        """Whether a step of the other's size fits in, and is computed alike."""
        return (
            self.decodes >= other.decodes
            and self.tokens >= other.tokens
            and self.prompts >= other.prompts
            and self.pages >= other.pages
            and (bool(self.prompts), self.greedy) == (bool(other.prompts), other.greedy)
        )


@dataclass(frozen=True)
class Inputs:
    """A bucket's part of the flat int64 buffer, as views of it; on the host and on the device
    alike."""

    token_ids: torch.Tensor  # [T]; -1: what was drawn last for the slot
    positions: torch.Tensor  # [T]
    places: torch.Tensor  # [G, T]
    slots: torch.Tensor  # [S]; -1: padding
    contexts: torch.Tensor  # [S]
    bounds: torch.Tensor  # [prompts + 1]
    last_rows: torch.Tensor  # [S]
    conv: torch.Tensor  # [3, T]: a token's sequence, its offset in it, and the sequence's tokens
    tables: torch.Tensor  # [G, S, W]
    filters: torch.Tensor  # [2, S]: top_k and seed
    probabilities: torch.Tensor  # [3, S] float32: temperature, top_p, min_p

    @classmethod
    def within(cls, buffer: torch.Tensor, bucket: Bucket, groups: int) -> Inputs:
        taken = 0

        def part(*shape: int) -> torch.Tensor:
            nonlocal taken
            size = int(np.prod(shape))
            view = buffer[taken : taken + size].view(shape)
            taken += size
            return view

        rows, sequences = bucket.rows, bucket.sequences
        return cls(
            token_ids=part(rows),
            positions=part(rows),
            places=part(groups, rows),
            slots=part(sequences),
            contexts=part(sequences),
            bounds=part(bucket.prompts + 1),
            last_rows=part(sequences),
            conv=part(3, rows),
            tables=part(groups, sequences, bucket.pages),
            filters=part(2, sequences),
            probabilities=part(3, sequences).view(torch.float32)[:, :sequences],
        )

    @staticmethod
    def size(bucket: Bucket, groups: int) -> int:
        """In int64."""
        rows, sequences = bucket.rows, bucket.sequences
        of_tokens = (2 + groups + 3) * rows
        return of_tokens + (8 + groups * bucket.pages) * sequences + bucket.prompts + 1


def fill(inputs: Inputs, bucket: Bucket, packed: Packed, schedule: Schedule) -> None:
    """Write a step to its bucket's place in the host's buffer."""
    table, n, b = schedule.table, packed.num_decodes, bucket.decodes
    prompts = len(packed.slots) - n
    sequences, tokens = _Layout(n, b, prompts), _Layout(n, b, len(packed.positions) - n)
    tokens.put(inputs.token_ids, packed.token_ids, 0)
    tokens.put(inputs.positions, packed.positions, 0)
    tokens.put(inputs.places, packed.places, -1)
    sequences.put(inputs.slots, packed.slots, -1)
    sequences.put(inputs.contexts, packed.contexts, 0)
    inputs.tables.numpy()[:] = 0
    width = packed.tables.shape[2]
    sequences.put(inputs.tables.transpose(1, 2)[:, :width], packed.tables.transpose(0, 2, 1), 0)
    bounds = inputs.bounds.numpy()
    bounds[: prompts + 1] = packed.prefill_bounds
    bounds[prompts + 1 :] = bounds[prompts]
    last_rows = packed.last_rows
    last_rows[n:] += b - n
    sequences.put(inputs.last_rows, last_rows, 0)
    if bucket.prompts:
        of_token = np.repeat(np.arange(len(packed.slots)), packed.counts)
        of_token[n:] += b - n
        firsts = packed.last_rows - packed.counts + 1
        offsets = np.arange(len(packed.positions)) - np.repeat(firsts, packed.counts)
        # A row of padding is a token of a sequence that is padding; the last prompt always is.
        tokens.put(inputs.conv[0], of_token, bucket.sequences - 1)
        inputs.conv[0].numpy()[n:b] = np.arange(n, b)
        tokens.put(inputs.conv[1], offsets, 0)
        tokens.put(inputs.conv[2], np.repeat(packed.counts, packed.counts), 1)
    if not bucket.greedy:
        slots = packed.slots
        sequences.put(inputs.filters, np.stack((table.top_k[slots], table.seed[slots])), 0)
        columns = (table.temperature[slots], table.top_p[slots], table.min_p[slots])
        sequences.put(inputs.probabilities, np.stack(columns), 0)


@dataclass(frozen=True)
class _Layout:
    """How `decodes` and `prompts` entries lie in a bucket with room for `room` decodes."""

    decodes: int
    room: int
    prompts: int

    def put(self, target: torch.Tensor, values: np.ndarray, padding: int) -> None:
        """Along the last dimension."""
        array, n, end = target.numpy(), self.decodes, self.room + self.prompts
        array[..., :n] = values[..., :n]
        array[..., n : self.room] = padding
        array[..., self.room : end] = values[..., n:]
        array[..., end:] = padding


def decode_sizes(most: int) -> tuple[int, ...]:
    """Decode rows of the buckets up to `most`: powers of two, then multiples of 16, then of 32, so
    that little is padded."""
    sizes = [1, 2, 4, 8, *range(16, 128, 16), *range(128, most, 32)]
    return (*(size for size in sizes if size < most), most)


def size_for(count: int, sizes: tuple[int, ...]) -> int:
    return sizes[bisect_left(sizes, count)]
