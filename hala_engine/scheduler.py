"""Continuous batching: which sequences run in the next step, and how many of their tokens.

A step takes, under the token budget, one token of every sequence that is decoding, then a chunk of
every prompt that is not, in order of admission, then the first chunks of waiting sequences while
there are slots and pages. When pages run out, the sequence admitted last gives its own back and is
computed again later; so the one admitted first always gets on, and every step has work.

A prompt that begins with a known prefix continues from there. Of those that share a prefix which is
not computed yet, the first computes it; the others wait for it, and let those behind them pass.

A device may still compute a step when the next is made: `advance` takes in what is certain once a
step has been started, `collect` what was drawn. A sequence that turns out to have ended has then
one token too many in the step in flight, which is dropped.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from hala_engine.cache import Cache
from hala_engine.errors import JobError
from hala_engine.prefix import Prefix, SharedPrefixes
from hala_engine.schedule import Drawn, Schedule
from hala_engine.sequence import Sequence, SlotTable


class Scheduler:
    """`aligned_chunk`: prompts are cut at multiples of it only, and tokens after the prompt are
    always computed one a step, so that how a sequence is computed depends on itself alone (batch
    invariance). None: prompts are cut wherever the budget ends."""

    def __init__(
        self,
        cache: Cache,
        prefixes: SharedPrefixes,
        max_batched_tokens: int,
        aligned_chunk: int | None = None,
    ) -> None:
        self.cache = cache
        self.prefixes = prefixes
        self.max_batched_tokens = max_batched_tokens
        self.aligned_chunk = aligned_chunk
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.table = SlotTable(cache.max_sequences, cache.max_model_len)
        self.preemptions = 0
        self.shared_tokens = 0  # not computed, since a prefix was

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def needs_all_tokens(self) -> bool:
        """The next step cannot be made before what is in flight has been collected: the running
        sequences' log-probabilities and penalties come from the host."""
        slots = [sequence.slot for sequence in self.running]
        table = self.table
        return bool((table.is_scored[slots] | (table.penalty[slots] != 1)).any())

    def add(self, *sequences: Sequence) -> None:
        """Let them wait for their turn. Of those that are added together the longest begin first:
        the short ones then fill the slots until the last of them ends."""
        for sequence in sequences:
            if sequence.may_share:
                self.prefixes.note(sequence.prompt)
        self.waiting.extend(sorted(sequences, key=lambda s: -s.max_tokens))

    def schedule(self) -> Schedule:
        """The next step. Empty only if there is no work, or nothing to do before what is in flight
        has been collected."""
        decoding, prompting = self._running_slots()
        prompts = [self.table.sequences[slot] for slot in prompting]
        decodes = self._decodes(decoding)
        budget = self.max_batched_tokens - len(decodes)
        prefills: list[tuple[int, int]] = []
        preemptions = self.preemptions
        for sequence in prompts:
            if sequence.slot >= 0:  # not preempted by an older one
                budget -= self._prefill(sequence, budget, prefills)
        if self.preemptions > preemptions:
            decodes = self._still_running(decodes)
        self._admit(budget, prefills)
        return Schedule.of(self.table, decodes, prefills)

    def advance(self, schedule: Schedule) -> None:
        """The step has been started: what it computes will be in the cache for those after it."""
        table, ends = self.table, schedule.ends
        table.computed[schedule.slots] = ends
        table.length[schedule.slots[schedule.samples]] += 1
        self.cache.slide(schedule.slots, ends)
        for sequence in schedule.sequences[schedule.num_decodes :]:
            founding = sequence.founding
            if founding and sequence.computed == len(founding.tokens):
                self.prefixes.keep(founding, sequence.slot)
                sequence.founding = None

    def collect(self, schedule: Schedule, drawn: Drawn) -> list[Sequence]:
        """Take in what a step gave; returns the sequences that finished."""
        table = self.table
        if drawn.prompt_logprobs:
            self._note_prompt_logprobs(schedule, drawn)
        # A sequence that has left its slot meanwhile is not the table's business any more.
        alive = table.epoch[schedule.slots] == schedule.epochs
        chunks = np.flatnonzero(schedule.samples & alive)
        slots, places = schedule.slots[chunks], schedule.ends[chunks]
        tokens = drawn.tokens[alive[schedule.samples]]
        stopped = (table.stop_ids[slots] == tokens[:, None]).any(1)
        going = ~stopped
        table.tokens[slots[going], places[going]] = tokens[going]
        table.known[slots] = places + going
        for i in np.flatnonzero(going & (table.has_stop_strings | table.is_scored)[slots]):
            sequence = table.sequences[slots[i]]
            if chunks[i] in drawn.logprobs:
                sequence.logprobs.append(drawn.logprobs[chunks[i]])
            if sequence.stop_strings:
                sequence.text = sequence.stop_strings.push(int(tokens[i]))
                stopped[i] = sequence.text is not None
        finished = []
        for i in np.flatnonzero(stopped | (places + 1 >= table.limit[slots])):
            sequence = table.sequences[slots[i]]
            sequence.finish_reason = "stop" if stopped[i] else "length"
            finished.append(sequence)
            self._release(sequence)
        return finished

    def update(self, schedule: Schedule, drawn: Drawn) -> list[Sequence]:
        """Both, for a step that is done."""
        self.advance(schedule)
        return self.collect(schedule, drawn)

    def abort(self) -> None:
        """Drop everything and free what it held."""
        self.waiting.clear()
        for sequence in list(self.running):
            self._release(sequence)

    def _running_slots(self) -> tuple[np.ndarray, np.ndarray]:
        """The slots of those that decode and of those whose prompts go on, in order of admission.
        Those that wait only for their last token to be known are neither."""
        table = self.table
        slots = np.array([sequence.slot for sequence in self.running], dtype=np.int64)
        computed, length = table.computed[slots], table.length[slots]
        if self.aligned_chunk:
            decoding = computed >= table.prompt[slots]
        else:
            decoding = (length - computed == 1) & (computed > 0)
        goes_on = length < table.limit[slots]
        return slots[decoding & goes_on], slots[~decoding & goes_on]

    def _decodes(self, slots: np.ndarray) -> np.ndarray:
        """Those of the slots, up to the budget, that have a page for their next token."""
        slots = slots[: self.max_batched_tokens]
        full = slots[self.table.computed[slots] >= self.cache.reach[slots]]
        if not len(full):
            return slots
        for sequence in [self.table.sequences[slot] for slot in full]:
            if sequence.slot >= 0:  # not preempted by an older one
                self._reserve(sequence, sequence.computed + 1)
        return self._still_running(slots)

    def _still_running(self, slots: np.ndarray) -> np.ndarray:
        runs = [self.table.sequences[slot] is not None for slot in slots]
        return slots[np.array(runs, dtype=bool)]

    def _note_prompt_logprobs(self, schedule: Schedule, drawn: Drawn) -> None:
        for i, scores in drawn.prompt_logprobs.items():
            noted = schedule.sequences[i].prompt_logprobs
            del noted[schedule.starts[i] :]  # of a run before a preemption
            noted += scores

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """Tokens of a prompt chunk within the budget; 0 when it does not fit."""
        if not self.aligned_chunk:
            end = len(sequence.founding.tokens) if sequence.founding else sequence.length
            return min(end - sequence.computed, budget)
        count = min(len(sequence.prompt) - sequence.computed, self.aligned_chunk)
        return count if count <= budget else 0

    def _prefill(self, sequence: Sequence, budget: int, prefills: list[tuple[int, int]]) -> int:
        """Schedule a chunk of the sequence if budget and pages allow; returns its tokens."""
        count = self._chunk(sequence, budget)
        if not count or not self._reserve(sequence, sequence.computed + count):
            return 0
        prefills.append((sequence.slot, count))
        return count

    def _admit(self, budget: int, prefills: list[tuple[int, int]]) -> None:
        """Start waiting sequences in their order, but for those whose prefix is about to come."""
        if not budget or not self.cache.free_slots:
            return
        for sequence in list(self.waiting):
            kept, following = (
                self.prefixes.find(sequence.prompt) if sequence.may_share else (None, None)
            )
            if kept and kept.is_coming:
                continue
            if not self._chunk(sequence, budget) or not self._admissible(sequence, kept):
                return
            self.waiting.remove(sequence)
            self._open(sequence, kept, following)
            budget -= self._prefill(sequence, budget, prefills)
            if not budget or not self.cache.free_slots:
                return

    def _admissible(self, sequence: Sequence, kept: Prefix | None) -> bool:
        """Pages for all its tokens, but for those of the prefix that is `kept`, and one more for
        each sequence that may outgrow what it has: admitting one that at once preempts another
        would compute it for nothing."""
        if not self.running:
            return True
        cache, chunk = self.cache, self.aligned_chunk or self.max_batched_tokens
        need = cache.spec.pages(sequence.length, cache.page_size, chunk)
        if kept:
            need -= sum(map(len, kept.kept.pages))
        growing = int((self.table.limit > cache.reach).sum())
        growing += sequence.max_tokens > cache.pages_for(sequence.length) * cache.page_size
        need += growing * cache.groups
        return self.prefixes.has_room(need, spared=kept)

    def _open(self, sequence: Sequence, kept: Prefix | None, founding: Prefix | None) -> None:
        """Give the sequence a slot, what is `kept` of its prompt, and a prefix to compute for
        others."""
        sequence.open(self.table, self.cache.open_slot())
        self.running.append(sequence)
        if founding:
            founding.is_coming = True
            sequence.founding = founding
        if kept and self.prefixes.use(kept, sequence.slot):
            self.table.computed[sequence.slot] = len(kept.tokens)
            self.shared_tokens += len(kept.tokens)

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for the sequence, preempting from the youngest; False when it is itself the one.

        Raises JobError if it is alone: it would preempt itself for ever.
        """
        while not self.cache.grow(sequence.slot, tokens):
            if len(self.running) == 1:
                raise JobError(
                    f"the cache's {self.cache.num_pages} pages do not hold {tokens} tokens of a "
                    "sequence; lower max_model_len"
                )
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        if sequence.founding:
            sequence.founding.is_coming = False
            sequence.founding = None
        self.cache.close_slot(sequence.slot)
        sequence.close()
