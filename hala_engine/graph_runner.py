"""Steps on a GPU: captured once as CUDA graphs, then replayed, while the host is a step ahead.

A step is padded to a bucket: so many decode rows, prompt tokens, prompts and pages. All that the
host knows of it is written to one pinned buffer, copied to the device in one go, and read there at
fixed places; the graph of the bucket holds everything from the embedding to the drawn tokens. Those
stay on the device, by slot, as the next step's input; the host reads them one step late.

Padding is a sequence without a slot: its K and V go nowhere, it sees nothing, and what is drawn for
it is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import nn

from hala_engine.batch import Batch, Pages
from hala_engine.buckets import (
    LEAST_PAGES,
    MOST_PROMPTS,
    PROMPT_TOKENS,
    Bucket,
    Inputs,
    decode_sizes,
    fill,
    size_for,
)
from hala_engine.cache import Cache
from hala_engine.packing import Packed, pack
from hala_engine.runner import Runner
from hala_engine.schedule import Drawn, Schedule
from hala_kernels.backend import use_triton
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.short_conv import ConvLayout

CAPTURED_ON_USE = 2
"""A bucket's graph is captured when it is wanted so often: the first use compiles its kernels."""

CAPTURED_ON_USE_BESIDE = 16
"""The same where a larger one, that has been captured, serves: a job's end passes every size, and
capturing takes as long as many steps do."""


class GraphRunner(Runner):
    """captures: False runs the same steps without graphs, which any device can."""

    runs_ahead = True

    def __init__(
        self,
        model: nn.Module,
        cache: Cache,
        device: torch.device,
        *,
        captures: bool = True,
    ) -> None:
        super().__init__(model, cache, device)
        self._captures = captures
        self._decode_sizes = decode_sizes(cache.max_sequences)
        # What was drawn last for each slot, and, in the last place, for padding.
        self._drawn = torch.zeros(cache.max_sequences + 1, dtype=torch.int64, device=device)
        self._uses: Counter[Bucket] = Counter()
        self._graphs: dict[Bucket, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = None
        largest = Bucket(
            self._decode_sizes[-1], PROMPT_TOKENS[-1], MOST_PROMPTS + 1, LEAST_PAGES, greedy=False
        )
        size = Inputs.size(largest, cache.groups)
        self._staged = torch.empty(size, dtype=torch.int64, device=device)
        self._turn = 0
        self._host = [_HostBuffers(pinned=device.type == "cuda") for _ in range(2)]

    def start(self, schedule: Schedule) -> Callable[[], Drawn]:
        wanted = self._bucket(schedule)
        if wanted is None:
            return super().start(schedule)
        bucket = self._chosen(wanted)
        # The step before last has been collected, so its buffers are free.
        self._turn = 1 - self._turn
        host = self._host[self._turn]
        self._stage(host, bucket, schedule)
        tokens = self._run(bucket)
        return host.fetch(tokens, _rows_that_sample(schedule, bucket))

    def _bucket(self, schedule: Schedule) -> Bucket | None:
        """None: the step runs without a graph."""
        decodes, prompts = schedule.num_decodes, len(schedule) - schedule.num_decodes
        tokens = int(schedule.counts[decodes:].sum())
        if schedule.is_scored or schedule.is_penalised:
            return None
        if prompts > MOST_PROMPTS or tokens > PROMPT_TOKENS[-1]:
            return None
        width = self.cache.pages_for(int(schedule.ends.max()))
        pages = LEAST_PAGES
        while pages < width:
            pages *= 4
        greedy = schedule.is_greedy
        if not prompts:
            return Bucket(size_for(decodes, self._decode_sizes), 0, 0, pages, greedy)
        # Mixed steps come in fewer sizes: each is a graph.
        rows = self._decode_sizes[-1] if decodes else 0
        tokens = size_for(tokens, PROMPT_TOKENS)
        return Bucket(rows, tokens, min(tokens, MOST_PROMPTS) + 1, pages, greedy)

    def _chosen(self, wanted: Bucket) -> Bucket:
        """The bucket to run: the wanted one, or one that holds it and has its graph already."""
        self._uses[wanted] += 1
        if wanted in self._graphs or self._uses[wanted] >= CAPTURED_ON_USE_BESIDE:
            return wanted
        fitting = [bucket for bucket in self._graphs if bucket.holds(wanted)]
        return min(fitting, key=lambda bucket: (bucket.rows, bucket.pages), default=wanted)

    def _stage(self, host: _HostBuffers, bucket: Bucket, schedule: Schedule) -> None:
        """Bring the step's inputs to the device."""
        groups = self.cache.groups
        size = Inputs.size(bucket, groups)
        buffer = host.inputs(size)
        fill(Inputs.within(buffer, bucket, groups), bucket, pack(schedule, self.cache), schedule)
        if size > len(self._staged):
            # Graphs read the buffer where it was when they were captured.
            self._graphs.clear()
            self._staged = torch.empty(2 * size, dtype=torch.int64, device=self.device)
        self._staged[:size].copy_(buffer, non_blocking=True)

    @torch.inference_mode()
    def _run(self, bucket: Bucket) -> torch.Tensor:
        """[sequences]: the tokens drawn, on the device."""
        if bucket not in self._graphs:
            # The references ask the device for sizes, which a graph cannot hold.
            captures = self._captures and use_triton(self._drawn)
            if not captures or self._uses[bucket] < CAPTURED_ON_USE:
                return self._compute(bucket)
            self._capture(bucket)
        graph, tokens = self._graphs[bucket]
        graph.replay()
        return tokens

    def _capture(self, bucket: Bucket) -> None:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            tokens = self._compute(bucket)
        self._graphs[bucket] = graph, tokens

    def _compute(self, bucket: Bucket) -> torch.Tensor:
        inputs = Inputs.within(self._staged, bucket, self.cache.groups)
        last = len(self._drawn) - 1
        rows = torch.where(inputs.slots < 0, last, inputs.slots)
        batch = self._static_batch(inputs, bucket, rows)
        hidden = self.model(batch, self.cache.tensors)
        tokens, _ = sample(
            self.model.logits(hidden.index_select(0, inputs.last_rows)),
            None if bucket.greedy else _sampling(inputs),
            logit_scale=self.model.logit_scale,
            softcap=self.model.logit_softcap,
            with_logprobs=False,
        )
        self._drawn.index_copy_(0, rows, tokens)
        return tokens

    def _static_batch(self, inputs: Inputs, bucket: Bucket, rows: torch.Tensor) -> Batch:
        n = bucket.decodes
        token_ids = inputs.token_ids
        if n:
            known, latest = token_ids[:n], self._drawn.index_select(0, rows[:n])
            token_ids = torch.cat((torch.where(known < 0, latest, known), token_ids[n:]))
        conv = None
        if self._conv_taps:
            conv = ConvLayout.on_device(
                inputs.conv.int() if bucket.prompts else None, bucket.sequences, self._conv_taps
            )
        return Batch(
            token_ids=token_ids,
            positions=inputs.positions,
            pages=tuple(map(Pages, inputs.tables, inputs.places)),
            state_slots=inputs.slots,
            conv=conv,
            num_decodes=n,
            context_lens=inputs.contexts,
            prefill_bounds=inputs.bounds,
            longest_chunk=bucket.tokens,
            sampled_rows=inputs.last_rows,
        )

    def step(self, schedule: Schedule) -> Drawn:
        """Without a graph, and to its end: for what the host has a part in, and large steps."""
        drawn = super().step(schedule)
        slots = torch.from_numpy(schedule.slots[schedule.samples]).to(self.device)
        self._drawn.index_copy_(0, slots, torch.from_numpy(drawn.tokens).to(self.device))
        return drawn

    def _known_tokens(self, packed: Packed) -> torch.Tensor:
        token_ids = super()._known_tokens(packed)
        n = packed.num_decodes
        latest = self._drawn.index_select(0, torch.from_numpy(packed.slots[:n]).to(self.device))
        known = token_ids[:n]
        return torch.cat((torch.where(known < 0, latest, known), token_ids[n:]))


class _HostBuffers:
    """What one step in flight keeps on the host."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._inputs = torch.empty(0, dtype=torch.int64)
        self._tokens = torch.empty(0, dtype=torch.int64)

    def inputs(self, size: int) -> torch.Tensor:
        if size > len(self._inputs):
            self._inputs = self._empty(2 * size)
        return self._inputs[:size]

    def fetch(self, tokens: torch.Tensor, wanted: np.ndarray) -> Callable[[], Drawn]:
        """Begin to bring `tokens` over; what is returned waits for them, and gives those of the
        rows `wanted`."""
        if len(tokens) > len(self._tokens):
            self._tokens = self._empty(2 * len(tokens))
        here = self._tokens[: len(tokens)]
        here.copy_(tokens, non_blocking=True)
        arrived = self._event
        if arrived is not None:
            arrived.record()

        def wait() -> Drawn:
            if arrived is not None:
                arrived.synchronize()
            return Drawn(here.numpy()[wanted])

        return wait

    @cached_property
    def _event(self) -> torch.cuda.Event | None:
        return torch.cuda.Event() if self._pinned else None

    def _empty(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int64, pin_memory=self._pinned)


def _sampling(inputs: Inputs) -> SamplingTensors:
    top_k, seed = inputs.filters
    temperature, top_p, min_p = inputs.probabilities
    return SamplingTensors(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=inputs.contexts,
    )


def _rows_that_sample(schedule: Schedule, bucket: Bucket) -> np.ndarray:
    """Of the tokens that a bucket draws, those of the chunks that sample."""
    rows = np.arange(len(schedule))
    rows[schedule.num_decodes :] += bucket.decodes - schedule.num_decodes
    return rows[schedule.samples]
