"""From a schedule to one forward pass, and from its logits to tokens and log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hala_engine.batch import Batch, Pages
from hala_engine.cache import Cache
from hala_engine.logprobs import TokenLogprob, log_probabilities, token_logprobs
from hala_engine.scheduler import Chunk, Drawn, Schedule, Sequence
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.short_conv import ConvLayout

SCORED_ROWS = 256
"""Prompt tokens whose logits are held at a time."""


class Runner:
    """Runs a model over a cache; nothing in it outlives a step."""

    def __init__(self, model: nn.Module, cache: Cache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        spec = model.cache_spec
        self._conv_taps = spec.conv_columns + 1 if spec.conv_layers else None

    @torch.inference_mode()
    def step(self, schedule: Schedule) -> list[Drawn]:
        """Compute the schedule; what was drawn for each chunk."""
        chunks = schedule.chunks
        logits, prompt_logprobs = self._forward(schedule)
        drawing = [chunk.sequence for chunk in chunks if chunk.samples]
        tokens = self._draw(logits, drawing)
        logprobs = self._logprobs(logits, tokens, drawing)
        drawn = iter(zip(tokens, logprobs, strict=True))
        return [
            Drawn(*(next(drawn) if chunk.samples else (-1, None)), prompt_logprobs.get(i, ()))
            for i, chunk in enumerate(chunks)
        ]

    def _forward(self, schedule: Schedule) -> tuple[torch.Tensor, dict[int, tuple[float, ...]]]:
        """Logits of the sampled rows, and the prompts' log-probabilities by chunk."""
        batch = self._batch(schedule)
        hidden = self.model(batch, self.cache.tensors)
        return self.model.logits(hidden[batch.sampled_rows]), self._prompt_logprobs(
            hidden, schedule.chunks
        )

    def _prompt_logprobs(
        self, hidden: torch.Tensor, chunks: list[Chunk]
    ) -> dict[int, tuple[float, ...]]:
        """For chunks that want them: of each prompt token that a row of theirs predicts."""
        found, row = {}, 0
        for i, chunk in enumerate(chunks):
            sequence = chunk.sequence
            if sequence.params.prompt_logprobs:
                following = sequence.prompt[sequence.computed + 1 : chunk.end + 1]
                rows = hidden[row : row + len(following)]
                found[i] = tuple(self._score(rows, following))
            row += chunk.count
        return found

    def _score(self, hidden: torch.Tensor, tokens: list[int]) -> list[float]:
        """The log-probability of each token after the row of `hidden` before it."""
        scores: list[float] = []
        for start in range(0, len(tokens), SCORED_ROWS):
            part = slice(start, start + SCORED_ROWS)
            table = self._log_probabilities(self.model.logits(hidden[part]))
            ids = torch.tensor(tokens[part], device=self.device).unsqueeze(1)
            scores += table.gather(1, ids).squeeze(1).tolist()
        return scores

    def _log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return log_probabilities(logits, self.model.logit_scale, self.model.logit_softcap)

    def _logprobs(
        self, logits: torch.Tensor, tokens: list[int], sequences: list[Sequence]
    ) -> list[TokenLogprob | None]:
        """Of the drawn tokens, for the sequences that want them."""
        results: list[TokenLogprob | None] = [None] * len(sequences)
        rows = [i for i, s in enumerate(sequences) if s.params.wants_logprobs]
        if rows:
            wanted = [sequences[i].params for i in rows]
            found = token_logprobs(
                self._log_probabilities(logits[rows]),
                [tokens[i] for i in rows],
                [params.logprobs or 0 for params in wanted],
                [params.logprob_token_ids for params in wanted],
            )
            for i, logprob in zip(rows, found, strict=True):
                results[i] = logprob
        return results

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
        pages = []
        for table in self.cache.page_tables:
            rows = table[slots, :width]
            places = rows[of_token, positions // page_size] * page_size + positions % page_size
            pages.append(Pages(self._tensor(rows), self._tensor(places)))

        decodes = len(schedule.decodes)
        prefill_bounds = np.concatenate(([0], np.cumsum(counts[decodes:])))
        samples = np.array([chunk.samples for chunk in chunks])
        conv = self._conv_taps and ConvLayout.of(torch.from_numpy(counts), self._conv_taps)
        return Batch(
            token_ids=self._tensor(_token_ids(chunks)),
            positions=self._tensor(positions),
            pages=tuple(pages),
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
        ids, _ = sample(
            logits,
            params,
            logit_scale=self.model.logit_scale,
            softcap=self.model.logit_softcap,
            with_logprobs=False,
        )
        return ids.tolist()

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
