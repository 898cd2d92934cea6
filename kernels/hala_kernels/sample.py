"""From logits to the next token, each row with its own parameters, without a host round trip.

Order of the filters, as in Hugging Face: repetition penalty, temperature, top-k, top-p, min-p. The
kept probabilities are sorted and the token is where their cumulative sum passes one uniform number,
which is a hash of (seed, position): a request draws the same tokens whatever runs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SamplingTensors:
    """Parameters of S rows. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off.

    `history` [S, L] int64 token ids (pad with any id of the row) and `penalty` [S] belong together:
    both None when no row has a repetition penalty.
    """

    temperature: torch.Tensor  # [S] float32
    top_k: torch.Tensor  # [S] int64
    top_p: torch.Tensor  # [S] float32
    min_p: torch.Tensor  # [S] float32
    seed: torch.Tensor  # [S] int64
    position: torch.Tensor  # [S] int64: the index of the token to draw
    penalty: torch.Tensor | None = None  # [S] float32
    history: torch.Tensor | None = None


def sample(logits: torch.Tensor, params: SamplingTensors | None) -> torch.Tensor:
    """`logits` [S, V] -> token ids [S] int64. `params` None: every row greedy."""
    if params is None:
        return _argmax(logits)
    logits = logits.float()
    if params.penalty is not None and params.history is not None:
        logits = _penalise_repetition(logits, params.history, params.penalty)
    greedy = _argmax(logits)
    scaled = logits / params.temperature.clamp(min=1e-6).unsqueeze(1)
    ranked, ids = scaled.sort(dim=-1, descending=True, stable=True)
    probability = _filter(ranked, params).cumsum(-1, dtype=torch.float64)
    target = uniform(params.seed, params.position).unsqueeze(1) * probability[:, -1:]
    # The first rank whose cumulative probability exceeds the target: it has a positive share.
    rank = torch.searchsorted(probability, target, right=True).clamp(max=logits.shape[1] - 1)
    drawn = ids.gather(1, rank).squeeze(1)
    return torch.where(params.temperature > 0, drawn, greedy)


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest. `max` is vectorised on the CPU, `argmax` over bfloat16 is not."""
    return logits.max(-1).indices


def _penalise_repetition(
    logits: torch.Tensor, history: torch.Tensor, penalty: torch.Tensor
) -> torch.Tensor:
    """Divide positive, multiply negative logits of tokens seen before (CTRL, arXiv 1909.05858)."""
    seen = logits.gather(1, history)
    penalty = penalty.unsqueeze(1)
    seen = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits.scatter(1, history, seen)


def _filter(ranked: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Probabilities of `ranked` logits [S, V] (descending), zero where a filter drops the rank."""
    ranks = torch.arange(ranked.shape[1], device=ranked.device)
    top_k = torch.where(params.top_k > 0, params.top_k, ranked.shape[1]).unsqueeze(1)
    kept = ranked.masked_fill(ranks >= top_k, float("-inf"))
    probability = kept.softmax(-1)
    before = probability.cumsum(-1) - probability
    drop = (before >= params.top_p.unsqueeze(1)) & (params.top_p < 1).unsqueeze(1)
    # min-p is a share of the best token's probability, which top-p's renormalisation leaves alone.
    drop |= probability < params.min_p.unsqueeze(1) * probability[:, :1]
    drop[:, 0] = False
    return probability.masked_fill(drop, 0.0)


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1), float64: the SplitMix64 finaliser over (seed, position), both int64."""
    z = seed * -7046029254386353131 + (position + 1) * -4658895280553007687
    z = (z ^ _shift_right(z, 30)) * -4658895280553007687
    z = (z ^ _shift_right(z, 27)) * -7723592293110705685
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).double() / 2.0**53


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's int64 shift is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
