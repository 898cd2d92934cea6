"""From a schedule to one forward pass, and from its logits to tokens and log-probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from hala_engine.batch import Batch, Pages
from hala_engine.cache import Cache
from hala_engine.logprobs import TokenLogprob, log_probabilities, token_logprobs
from hala_engine.packing import Packed, pack
from hala_engine.schedule import Drawn, Schedule
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.short_conv import ConvLayout

SCORED_ROWS = 256
"""Prompt tokens whose logits are held at a time."""


class Runner:
    """Runs a model over a cache; nothing in it outlives a step.

    runs_ahead: a step is computed by a device while the host makes the next.
    """

    runs_ahead = False

    def __init__(self, model: nn.Module, cache: Cache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        spec = model.cache_spec
        self._conv_taps = spec.conv_columns + 1 if spec.conv_layers else None

    def start(self, schedule: Schedule) -> Callable[[], Drawn]:
        """Begin to compute the schedule; what is returned waits for the end and gives what was
        drawn."""
        drawn = self.step(schedule)
        return lambda: drawn

    @torch.inference_mode()
    def step(self, schedule: Schedule) -> Drawn:
        """Compute the schedule."""
        logits, prompt_logprobs = self._forward(schedule)
        drawing = np.flatnonzero(schedule.samples)
        tokens = self._draw(logits, schedule, drawing)
        if not schedule.is_scored:
            return Drawn(tokens)
        return Drawn(tokens, self._logprobs(logits, tokens, schedule, drawing), prompt_logprobs)

    def _forward(self, schedule: Schedule) -> tuple[torch.Tensor, dict[int, tuple[float, ...]]]:
        """Logits of the sampled rows, and the prompts' log-probabilities by chunk."""
        batch = self._batch(schedule)
        hidden = self.model(batch, self.cache.tensors)
        scores = self._prompt_logprobs(hidden, schedule) if schedule.is_scored else {}
        return self.model.logits(hidden[batch.sampled_rows]), scores

    def _prompt_logprobs(
        self, hidden: torch.Tensor, schedule: Schedule
    ) -> dict[int, tuple[float, ...]]:
        """For chunks that want them: of each prompt token that a row of theirs predicts."""
        found, row = {}, 0
        for i, chunk in enumerate(schedule.chunks):
            sequence = chunk.sequence
            if sequence.params.prompt_logprobs:
                following = sequence.prompt[chunk.start + 1 : chunk.end + 1]
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
        self, logits: torch.Tensor, tokens: np.ndarray, schedule: Schedule, drawing: np.ndarray
    ) -> dict[int, TokenLogprob]:
        """Of the tokens drawn for the chunks `drawing`, where they are wanted."""
        params = [schedule.sequences[i].params for i in drawing]
        rows = [row for row, p in enumerate(params) if p.wants_logprobs]
        if not rows:
            return {}
        found = token_logprobs(
            self._log_probabilities(logits[rows]),
            tokens[rows].tolist(),
            [params[row].logprobs or 0 for row in rows],
            [params[row].logprob_token_ids for row in rows],
        )
        return dict(zip(drawing[rows].tolist(), found, strict=True))

    def _batch(self, schedule: Schedule) -> Batch:
        packed = pack(schedule, self.cache)
        conv = self._conv_taps and ConvLayout.of(torch.from_numpy(packed.counts), self._conv_taps)
        tables, places = self._tensor(packed.tables), self._tensor(packed.places)
        return Batch(
            token_ids=self._known_tokens(packed),
            positions=self._tensor(packed.positions),
            pages=tuple(map(Pages, tables, places)),
            state_slots=self._tensor(packed.slots),
            conv=conv.to(self.device) if conv else None,
            num_decodes=packed.num_decodes,
            context_lens=self._tensor(packed.contexts),
            prefill_bounds=self._tensor(packed.prefill_bounds),
            longest_chunk=packed.longest_chunk,
            sampled_rows=self._tensor(packed.last_rows[schedule.samples]),
        )

    def _known_tokens(self, packed: Packed) -> torch.Tensor:
        """[T]: this runner's tokens are known before the next step is made."""
        return self._tensor(packed.token_ids)

    def _draw(self, logits: torch.Tensor, schedule: Schedule, drawing: np.ndarray) -> np.ndarray:
        if not len(drawing):
            return np.empty(0, dtype=np.int64)
        ids, _ = sample(
            logits,
            None if schedule.is_greedy else self._sampling_tensors(schedule, drawing),
            logit_scale=self.model.logit_scale,
            softcap=self.model.logit_softcap,
            with_logprobs=False,
        )
        return ids.cpu().numpy()

    def _sampling_tensors(self, schedule: Schedule, drawing: np.ndarray) -> SamplingTensors:
        table, slots, lengths = schedule.table, schedule.slots[drawing], schedule.ends[drawing]
        penalty = history = None
        if schedule.is_penalised:
            penalty = self._tensor(table.penalty[slots])
            rows = table.tokens[slots, : lengths.max()].astype(np.int64)
            beyond = np.arange(rows.shape[1]) >= lengths[:, None]
            history = self._tensor(np.where(beyond, rows[:, :1], rows))
        return SamplingTensors(
            temperature=self._tensor(table.temperature[slots]),
            top_k=self._tensor(table.top_k[slots]),
            top_p=self._tensor(table.top_p[slots]),
            min_p=self._tensor(table.min_p[slots]),
            seed=self._tensor(table.seed[slots]),
            position=self._tensor(lengths),
            penalty=penalty,
            history=history,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
