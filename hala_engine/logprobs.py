"""Log-probabilities of tokens, under the softmax of the model's logits: no temperature, penalty or
filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class TokenLogprob:
    """Of the token drawn, and of others by id: `top` has the likeliest ones first, in their order,
    then those that were asked for. In nats."""

    token_id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


def log_probabilities(
    logits: torch.Tensor, logit_scale: float, softcap: float | None
) -> torch.Tensor:
    """`logits` [S, V] as the model's head gives them -> [S, V] float32."""
    return torch.log_softmax(scaled(logits, logit_scale, softcap), dim=-1)


def scaled(logits: torch.Tensor, logit_scale: float, softcap: float | None) -> torch.Tensor:
    """The scores that `logits` stand for, float32: scaled, then soft-capped."""
    scores = logits.float()
    if logit_scale != 1:
        scores = scores * logit_scale
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def token_logprobs(
    scores: torch.Tensor,
    tokens: Sequence[int],
    top: Sequence[int],
    others: Sequence[Sequence[int]],
) -> list[TokenLogprob]:
    """For each row of `scores` [S, V] (log-probabilities): the token drawn, its `top` likeliest
    ones, V at most, and `others` by id."""
    values, ids = scores.topk(min(max(top), scores.shape[1]), dim=1)
    values, ids = values.tolist(), ids.tolist()
    # One look-up for all rows: a transfer from the device costs more than what it brings.
    asked = [[token, *more] for token, more in zip(tokens, others, strict=True)]
    found = iter(_look_up(scores, asked))
    results = []
    for row, (token, *more) in enumerate(asked):
        drawn = next(found)
        best = dict(zip(ids[row][: top[row]], values[row][: top[row]], strict=True))
        best |= {other: next(found) for other in more}
        results.append(TokenLogprob(token, drawn, best))
    return results


def _look_up(scores: torch.Tensor, asked: list[list[int]]) -> list[float]:
    """The scores of the ids `asked` of each row, one after the other."""
    rows = [row for row, ids in enumerate(asked) for _ in ids]
    columns = [token for ids in asked for token in ids]
    places = torch.tensor([rows, columns], device=scores.device)
    return scores[places[0], places[1]].tolist()
