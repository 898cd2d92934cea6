"""Continuous batching: which sequences run in the next step, and how many of their tokens.

A step takes one token of every sequence that is decoding, then prompt chunks under the token
budget, first of sequences already admitted, then of waiting ones while there are slots and pages.
When pages run out, the sequence admitted last gives its own back and is computed again later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hala_engine.cache import Cache
from hala_engine.sampling import SamplingParams, StopStrings


@dataclass(eq=False)
class Sequence:
    """One request in the engine. `computed` tokens have their K, V and states in the cache."""

    index: int
    prompt: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # prompt and output, by the request and by the context
    stop_ids: frozenset[int]
    stop_strings: StopStrings | None = None
    output: list[int] = field(default_factory=list)
    computed: int = 0
    slot: int = -1
    finish_reason: str | None = None
    text: str | None = None  # set when a stop string cut it

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    def tokens(self, start: int, stop: int) -> list[int]:
        boundary = len(self.prompt)
        if stop <= boundary:
            return self.prompt[start:stop]
        if start >= boundary:
            return self.output[start - boundary : stop - boundary]
        return self.prompt[start:] + self.output[: stop - boundary]


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a sequence to compute in a step, from its `computed` on."""

    sequence: Sequence
    count: int

    @property
    def end(self) -> int:
        return self.sequence.computed + self.count

    @property
    def samples(self) -> bool:
        """The step reaches the sequence's last token, so a next one is drawn."""
        return self.end == self.sequence.length


@dataclass(frozen=True)
class Schedule:
    """The work of one step; `decodes` have one token each."""

    decodes: list[Chunk]
    prefills: list[Chunk]

    @property
    def chunks(self) -> list[Chunk]:
        return self.decodes + self.prefills


class Scheduler:
    """`aligned_chunk`: prompts are cut at multiples of it only, and tokens after the prompt are
    always computed one a step, so that how a sequence is computed depends on itself alone (batch
    invariance). None: prompts are cut wherever the budget ends."""

    def __init__(
        self, cache: Cache, max_batched_tokens: int, aligned_chunk: int | None = None
    ) -> None:
        self.cache = cache
        self.max_batched_tokens = max_batched_tokens
        self.aligned_chunk = aligned_chunk
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> Schedule:
        """The next step. Never empty while there is work."""
        decodes: list[Chunk] = []
        prefills: list[Chunk] = []
        budget = self.max_batched_tokens
        for sequence in list(self.running):
            if sequence.slot < 0:
                continue  # preempted by an older one; an older one is never preempted by it
            if self._is_decoding(sequence):
                if budget and self._reserve(sequence, sequence.computed + 1):
                    decodes.append(Chunk(sequence, 1))
                    budget -= 1
            else:
                budget -= self._prefill(sequence, budget, prefills)
        while self.waiting and budget and self.cache.free_slots:
            sequence = self.waiting[0]
            count = self._chunk(sequence, budget)
            if not count or not self._admissible(sequence):
                break
            self.waiting.popleft()
            sequence.slot = self.cache.open_slot()
            self.running.append(sequence)
            budget -= self._prefill(sequence, budget, prefills)
        return Schedule(decodes, prefills)

    def update(self, schedule: Schedule, next_tokens: list[int]) -> list[Sequence]:
        """Take in the tokens drawn, one for each chunk; returns the sequences that finished."""
        finished = []
        for chunk, token in zip(schedule.chunks, next_tokens, strict=True):
            sequence = chunk.sequence
            samples = chunk.samples
            sequence.computed = chunk.end
            if samples and self._append(sequence, token):
                finished.append(sequence)
                self._release(sequence)
        return finished

    def abort(self) -> None:
        """Drop everything and free what it held."""
        self.waiting.clear()
        for sequence in list(self.running):
            self._release(sequence)

    def _is_decoding(self, sequence: Sequence) -> bool:
        if self.aligned_chunk:
            return sequence.computed >= len(sequence.prompt)
        return sequence.length - sequence.computed == 1 and sequence.computed > 0

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """Tokens of a prompt chunk within the budget; 0 when it does not fit."""
        if not self.aligned_chunk:
            return min(sequence.length - sequence.computed, budget)
        count = min(len(sequence.prompt) - sequence.computed, self.aligned_chunk)
        return count if count <= budget else 0

    def _prefill(self, sequence: Sequence, budget: int, prefills: list[Chunk]) -> int:
        """Schedule a chunk of the sequence if budget and pages allow; returns its tokens."""
        count = self._chunk(sequence, budget)
        if not count or not self._reserve(sequence, sequence.computed + count):
            return 0
        prefills.append(Chunk(sequence, count))
        return count

    def _admissible(self, sequence: Sequence) -> bool:
        """Pages for all its tokens and one more for each running sequence: admitting a sequence
        that at once preempts another would compute it for nothing."""
        need = self.cache.pages_for(sequence.length + 1)
        return not self.running or need + len(self.running) <= self.cache.free_pages

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for the sequence, preempting from the youngest; False when it is itself the one."""
        while not self.cache.grow(sequence.slot, tokens):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.close_slot(sequence.slot)
        sequence.slot = -1

    def _append(self, sequence: Sequence, token: int) -> bool:
        """Add a drawn token; True when the sequence is done."""
        if token in sequence.stop_ids:
            sequence.finish_reason = "stop"
            return True
        sequence.output.append(token)
        if sequence.stop_strings:
            sequence.text = sequence.stop_strings.push(token)
            if sequence.text is not None:
                sequence.finish_reason = "stop"
                return True
        if sequence.length >= sequence.max_tokens:
            sequence.finish_reason = "length"
            return True
        return False
