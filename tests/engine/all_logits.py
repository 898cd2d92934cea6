"""The logits of every position that the engine computes, for tests."""

from __future__ import annotations

import torch

from hala_engine import Engine, SamplingParams
from hala_engine.logprobs import scaled
from hala_engine.runner import Runner


class AllLogits(Runner):
    """Also keeps the logits of every position that it computes."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.seen: dict[int, dict[int, torch.Tensor]] = {}

    def _forward(self, schedule):
        batch = self._batch(schedule)
        hidden = self.model(batch, self.cache.tensors)
        every = self.model.logits(hidden)
        scores = scaled(every, self.model.logit_scale, self.model.logit_softcap)
        row = 0
        for chunk in schedule.chunks:
            of_sequence = self.seen.setdefault(chunk.sequence.index, {})
            for position in range(chunk.start, chunk.end):
                of_sequence[position] = scores[row]
                row += 1
        return every[batch.sampled_rows], {}


def logits_of(engine: Engine, prompts: list[list[int]], new_tokens: int):
    """(tokens, logits at every position) of each prompt, run as one batch."""
    engine.runner = AllLogits(engine.model, engine.cache, engine.device)
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    outputs = list(engine.generate(prompts, params))
    return [
        (
            prompt + output.token_ids[:-1],
            torch.stack([logits for _, logits in sorted(engine.runner.seen[i].items())]),
        )
        for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
    ]
