"""From a schedule to one forward pass, and from its logits to tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hala_engine.batch import Batch
from hala_engine.cache import Cache
from hala_engine.scheduler import Chunk, Schedule, Sequence
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.short_conv import ConvLayout


class Runner:
    def __init__(self, model: nn.Module, cache: Cache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        spec = model.cache_spec
        self._conv_taps = spec.conv_columns + 1 if spec.conv_layers else None

    @torch.inference_mode()
    def step(self, schedule: Schedule) -> list[int]:
        """Compute the schedule; a token for each chunk, -1 where the prompt goes on."""
        chunks = schedule.chunks
        logits = self._logits(schedule)
        drawing = [chunk.sequence for chunk in chunks if chunk.samples]
        drawn = iter(self._draw(logits, drawing))
        return [next(drawn) if chunk.samples else -1 for chunk in chunks]

    def _logits(self, schedule: Schedule) -> torch.Tensor:
        batch = self._batch(schedule)
        hidden = self.model(batch, self.cache.tensors)
        return self.model.logits(hidden[batch.sampled_rows])

    def _batch(self, schedule: Schedule) -> Batch:
        chunks = schedule.chunks
        counts = np.array([chunk.count for chunk in chunks], dtype=np.int64)
        computed = np.array([chunk.sequence.computed for chunk in chunks], dtype=np.int64)
        slots = np.array([chunk.sequence.slot for chunk in chunks], dtype=np.int64)
        ends = np.cumsum(counts)
        of_token = np.repeat(np.arange(len(chunks)), counts)
        positions = np.arange(ends[-1]) - (ends - counts)[of_token] + computed[of_token]

        page_size = self.cache.page_size
        context = computed + counts
        width = self.cache.pages_for(int(context.max()))
        pages = self.cache.page_table[slots, :width]
        kv_slots = pages[of_token, positions // page_size] * page_size + positions % page_size

        decodes = len(schedule.decodes)
        prefill_bounds = np.concatenate(([0], np.cumsum(counts[decodes:])))
        samples = np.array([chunk.samples for chunk in chunks])
        conv = self._conv_taps and ConvLayout.of(torch.from_numpy(counts), self._conv_taps)
        return Batch(
            token_ids=self._tensor(_token_ids(chunks)),
            positions=self._tensor(positions),
            kv_slots=self._tensor(kv_slots),
            page_table=self._tensor(pages),
            state_slots=self._tensor(slots),
            conv=conv.to(self.device) if conv else None,
            num_decodes=decodes,
            context_lens=self._tensor(context),
            prefill_bounds=self._tensor(prefill_bounds),
            longest_chunk=int(counts[decodes:].max(initial=0)),
            sampled_rows=self._tensor(ends[samples] - 1),
        )

    def _draw(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
        if not sequences:
            return []
        plain = all(sequence.params.is_plain_greedy for sequence in sequences)
        params = None if plain else self._sampling_tensors(sequences)
        return sample(logits, params, with_logprobs=False)[0].tolist()

    def _sampling_tensors(self, sequences: list[Sequence]) -> SamplingTensors:
        params = [sequence.params for sequence in sequences]

        def column(name: str, dtype: torch.dtype) -> torch.Tensor:
            values = [getattr(p, name) for p in params]
            return torch.tensor(values, dtype=dtype, device=self.device)

        penalty = history = None
        if any(p.repetition_penalty != 1 for p in params):
            penalty = column("repetition_penalty", torch.float32)
            longest = max(sequence.length for sequence in sequences)
            rows = np.empty((len(sequences), longest), dtype=np.int64)
            for row, sequence in zip(rows, sequences, strict=True):
                row[:] = sequence.prompt[0]
                row[: sequence.length] = sequence.tokens(0, sequence.length)
            history = self._tensor(rows)
        return SamplingTensors(
            temperature=column("temperature", torch.float32),
            top_k=column("top_k", torch.int64),
            top_p=column("top_p", torch.float32),
            min_p=column("min_p", torch.float32),
            seed=torch.tensor([s.seed for s in sequences], device=self.device),
            position=torch.tensor([s.length for s in sequences], device=self.device),
            penalty=penalty,
            history=history,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def _token_ids(chunks: list[Chunk]) -> np.ndarray:
    ids: list[int] = []
    for chunk in chunks:
        ids += chunk.sequence.tokens(chunk.sequence.computed, chunk.end)
    return np.array(ids, dtype=np.int64)
