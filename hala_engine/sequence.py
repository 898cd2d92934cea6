"""One request in the engine, and the table of those that run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hala_engine.logprobs import TokenLogprob
from hala_engine.prefix import Prefix
from hala_engine.sampling import SamplingParams, StopStrings


@dataclass(eq=False)
class Sequence:
    """`slot` is -1 while it waits; while it runs, its tokens are in `table`."""

    index: int
    prompt: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # prompt and output, by the request and by the context
    stop_ids: frozenset[int]
    stop_strings: StopStrings | None = None
    slot: int = -1
    table: SlotTable | None = None
    finish_reason: str | None = None
    text: str | None = None  # set when a stop string cut it
    founding: Prefix | None = None  # the prefix that it computes for others
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of `output`, if asked for
    prompt_logprobs: list[float] = field(default_factory=list)  # of the prompt's, from its second
    _output: list[int] = field(default_factory=list)  # while it does not run

    @property
    def computed(self) -> int:
        """Tokens that have their K, V and states in the cache."""
        return int(self.table.computed[self.slot]) if self.slot >= 0 else 0

    @property
    def output(self) -> list[int]:
        """The tokens drawn so far."""
        if self.slot < 0:
            return self._output
        known = self.table.known[self.slot]
        return self.table.tokens[self.slot, len(self.prompt) : known].tolist()

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def may_share(self) -> bool:
        """It may leave out the computation of a prefix: no scores of the prompt are asked for."""
        return not self.params.prompt_logprobs

    def tokens(self, start: int, stop: int) -> list[int]:
        return (self.prompt + self.output)[start:stop]

    def open(self, table: SlotTable, slot: int) -> None:
        """Begin to run."""
        table.open(slot, self)
        self.table, self.slot = table, slot

    def close(self) -> None:
        """Stop running; what was drawn stays."""
        self._output = self.output
        self.table.close(self.slot)
        self.slot = -1


class SlotTable:
    """The running sequences in arrays, an entry for each slot, so that a decode step needs no
    Python object of any of them.

    tokens [slots, max_model_len]: prompt and output. `computed`: in the cache; `known`: in
    `tokens`; `length`: of the sequence, with the token that a step in flight draws; `limit`: the
    longest that it may become, 0 in a free slot. `epoch` tells the sequences apart that a slot held
    one after the other.
    """

    def __init__(self, slots: int, max_model_len: int) -> None:
        def column(dtype: type) -> np.ndarray:
            return np.zeros(slots, dtype=dtype)

        # Pages of memory that no sequence reaches are never touched, so they cost nothing.
        self.tokens = np.zeros((slots, max_model_len), dtype=np.int32)
        self.sequences: list[Sequence | None] = [None] * slots
        self.epoch = column(np.int64)
        self.prompt, self.computed = column(np.int64), column(np.int64)
        self.known, self.length, self.limit = column(np.int64), column(np.int64), column(np.int64)
        self.stop_ids = np.full((slots, 1), -1, dtype=np.int64)
        self.temperature, self.penalty = column(np.float32), column(np.float32)
        self.top_p, self.min_p = column(np.float32), column(np.float32)
        self.top_k, self.seed = column(np.int64), column(np.int64)
        self.is_scored = column(np.bool_)  # log-probabilities are asked for
        self.has_stop_strings = column(np.bool_)

    def open(self, slot: int, sequence: Sequence) -> None:
        length = sequence.length
        params = sequence.params
        self.sequences[slot] = sequence
        self.epoch[slot] += 1
        self.tokens[slot, :length] = sequence.tokens(0, length)
        self.prompt[slot], self.computed[slot] = len(sequence.prompt), 0
        self.known[slot] = self.length[slot] = length
        self.limit[slot] = sequence.max_tokens
        self._set_stop_ids(slot, sequence.stop_ids)
        self.temperature[slot], self.penalty[slot] = params.temperature, params.repetition_penalty
        self.top_p[slot], self.min_p[slot] = params.top_p, params.min_p
        self.top_k[slot], self.seed[slot] = params.top_k, sequence.seed
        self.is_scored[slot] = params.wants_logprobs or params.prompt_logprobs
        self.has_stop_strings[slot] = sequence.stop_strings is not None

    def close(self, slot: int) -> None:
        self.sequences[slot] = None
        self.epoch[slot] += 1
        self.limit[slot] = 0

    def _set_stop_ids(self, slot: int, ids: frozenset[int]) -> None:
        if len(ids) > self.stop_ids.shape[1]:
            more = len(ids) - self.stop_ids.shape[1]
            self.stop_ids = np.pad(self.stop_ids, ((0, 0), (0, more)), constant_values=-1)
        self.stop_ids[slot] = -1
        self.stop_ids[slot, : len(ids)] = list(ids)
