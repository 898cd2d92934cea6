"""The work of one step, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hala_engine.logprobs import TokenLogprob
from hala_engine.sequence import Sequence, SlotTable


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a sequence, from its token `start` on. `samples`: they reach the last one,
    so a next token is drawn."""

    sequence: Sequence
    start: int
    count: int
    samples: bool

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True, eq=False)
class Schedule:
    """S sequences, an entry of each array for each: first `num_decodes` with one token, then the
    prompt chunks. `epochs` as in the table when the schedule was made."""

    table: SlotTable
    num_decodes: int
    slots: np.ndarray  # int64
    starts: np.ndarray  # int64
    counts: np.ndarray  # int64
    samples: np.ndarray  # bool
    sequences: list[Sequence]
    epochs: np.ndarray

    @classmethod
    def of(cls, table: SlotTable, decodes: np.ndarray, prefills: list[tuple[int, int]]) -> Schedule:
        """`decodes`: slots; `prefills`: slots and how many tokens of each."""
        slots = np.concatenate((decodes, [slot for slot, _ in prefills])).astype(np.int64)
        counts = np.ones(len(slots), dtype=np.int64)
        counts[len(decodes) :] = [count for _, count in prefills]
        starts = table.computed[slots]
        return cls(
            table,
            len(decodes),
            slots,
            starts,
            counts,
            samples=starts + counts == table.length[slots],
            sequences=[table.sequences[slot] for slot in slots],
            epochs=table.epoch[slots],
        )

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def ends(self) -> np.ndarray:
        return self.starts + self.counts

    @cached_property
    def chunks(self) -> list[Chunk]:
        columns = (self.starts.tolist(), self.counts.tolist(), self.samples.tolist())
        return [Chunk(*row) for row in zip(self.sequences, *columns, strict=True)]

    @property
    def decodes(self) -> list[Chunk]:
        return self.chunks[: self.num_decodes]

    @property
    def prefills(self) -> list[Chunk]:
        return self.chunks[self.num_decodes :]

    @cached_property
    def is_scored(self) -> bool:
        """Somebody asks for log-probabilities."""
        return bool(self.table.is_scored[self.slots].any())

    @cached_property
    def is_penalised(self) -> bool:
        return bool((self.table.penalty[self.slots] != 1).any())

    @cached_property
    def is_greedy(self) -> bool:
        """Every next token is the argmax of the raw logits."""
        return not self.is_penalised and not self.table.temperature[self.slots].any()


@dataclass(frozen=True)
class Drawn:
    """What a step gives: a token for each chunk that samples, in order; and, where asked for, the
    log-probabilities of these, and of the prompt's tokens, by chunk."""

    tokens: np.ndarray  # int64
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    prompt_logprobs: dict[int, tuple[float, ...]] = field(default_factory=dict)
