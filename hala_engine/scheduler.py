"""Continuous batching: which sequences run in the next step, and how many of their tokens.

A step takes, under the token budget, one token of every sequence that is decoding and a chunk of
every prompt that is not, in order of admission, then the first chunks of waiting sequences while
there are slots and pages. When pages run out, the sequence admitted last gives its own back and is
computed again later; so the one admitted first always gets on, and every step has work.

A prompt that begins with a known prefix continues from there. Of those that share a prefix which is
not computed yet, the first computes it; the others wait for it, and let those behind them pass.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hala_engine.cache import Cache
from hala_engine.errors import JobError
from hala_engine.logprobs import TokenLogprob
from hala_engine.prefix import Prefix, SharedPrefixes
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
    founding: Prefix | None = None  # the prefix that it computes for others
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of `output`, if asked for
    prompt_logprobs: list[float] = field(default_factory=list)  # of the prompt's, from its second

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def may_share(self) -> bool:
        """It may leave out the computation of a prefix: no scores of the prompt are asked for."""
        return not self.params.prompt_logprobs

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
class Drawn:
    """What a step gives for a chunk: a token, -1 where the prompt goes on, and the
    log-probabilities that the request asks for."""

    token: int
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[float, ...] = ()


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
        self.preemptions = 0
        self.shared_tokens = 0  # not computed, since a prefix was

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        if sequence.may_share:
            self.prefixes.note(sequence.prompt)

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
        self._admit(budget, prefills)
        return Schedule(decodes, prefills)

    def update(self, schedule: Schedule, drawn: list[Drawn]) -> list[Sequence]:
        """Take in what was drawn, one for each chunk; returns the sequences that finished."""
        finished = []
        for chunk, result in zip(schedule.chunks, drawn, strict=True):
            sequence = chunk.sequence
            samples = chunk.samples
            del sequence.prompt_logprobs[sequence.computed :]  # of a run before a preemption
            sequence.prompt_logprobs += result.prompt_logprobs
            sequence.computed = chunk.end
            self.cache.slide(sequence.slot, sequence.computed)
            founding = sequence.founding
            if founding and sequence.computed == len(founding.tokens):
                self.prefixes.keep(founding, sequence.slot)
                sequence.founding = None
            if samples and self._append(sequence, result):
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
            end = len(sequence.founding.tokens) if sequence.founding else sequence.length
            return min(end - sequence.computed, budget)
        count = min(len(sequence.prompt) - sequence.computed, self.aligned_chunk)
        return count if count <= budget else 0

    def _prefill(self, sequence: Sequence, budget: int, prefills: list[Chunk]) -> int:
        """Schedule a chunk of the sequence if budget and pages allow; returns its tokens."""
        count = self._chunk(sequence, budget)
        if not count or not self._reserve(sequence, sequence.computed + count):
            return 0
        prefills.append(Chunk(sequence, count))
        return count

    def _admit(self, budget: int, prefills: list[Chunk]) -> None:
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
        each sequence: admitting one that at once preempts another would compute it for nothing."""
        if not self.running:
            return True
        spec, chunk = self.cache.spec, self.aligned_chunk or self.max_batched_tokens
        need = spec.pages(sequence.length, self.cache.page_size, chunk)
        if kept:
            need -= sum(map(len, kept.kept.pages))
        need += (len(self.running) + 1) * self.cache.groups
        return self.prefixes.has_room(need, spared=kept)

    def _open(self, sequence: Sequence, kept: Prefix | None, founding: Prefix | None) -> None:
        """Give the sequence a slot, what is `kept` of its prompt, and a prefix to compute for
        others."""
        sequence.slot = self.cache.open_slot()
        self.running.append(sequence)
        if founding:
            founding.is_coming = True
            sequence.founding = founding
        if kept and self.prefixes.use(kept, sequence.slot):
            sequence.computed = len(kept.tokens)
            self.shared_tokens += sequence.computed

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
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        if sequence.founding:
            sequence.founding.is_coming = False
            sequence.founding = None
        self.cache.close_slot(sequence.slot)
        sequence.slot = -1

    def _append(self, sequence: Sequence, drawn: Drawn) -> bool:
        """Add a drawn token; True when the sequence is done."""
        token = drawn.token
        if token in sequence.stop_ids:
            sequence.finish_reason = "stop"
            return True
        sequence.output.append(token)
        if drawn.logprob:
            sequence.logprobs.append(drawn.logprob)
        if sequence.stop_strings:
            sequence.text = sequence.stop_strings.push(token)
            if sequence.text is not None:
                sequence.finish_reason = "stop"
                return True
        if sequence.length >= sequence.max_tokens:
            sequence.finish_reason = "length"
            return True
        return False
