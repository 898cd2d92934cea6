"""From logits to the next token, each row with its own parameters, without a host round trip.

    x = softcap(logits * logit_scale)           the model's own distribution: log-probabilities
    y = x / penalty or x * penalty for ids seen before (CTRL, arXiv 1909.05858), else x
    token = argmax y, at temperature 0
            else drawn from softmax(y / temperature) over the ids that every filter keeps

Filters in Hugging Face's order: top-k, top-p over what top-k kept, min-p. Each keeps the ids whose
y is at least a threshold, so equal values are kept or dropped together: top-k keeps all that equal
the k-th largest, and top-p keeps an id when the ids of strictly larger value hold less than p. The
draw is an exponential race (sample_noise.py).

Floor: the logits read once. The kernels are in sample_kernels.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hala_kernels.backend import use_native, use_triton
from hala_kernels.native import INT, POINTER, SIZE, function, is_bf16
from hala_kernels.sample_kernels import COLDEST, sample_triton
from hala_kernels.sample_noise import LOG2E, noise, noise_keys_reference

_ARGMAX = function("hala_argmax", POINTER, POINTER, SIZE, SIZE, SIZE, INT)

_CACHED = 1 << 16
"""The reference makes noise for so many logits at a time."""

_RANKS = 256
"""The reference looks for a threshold among so many of the largest logits, then among 16 times
more, before it sorts all."""


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


def sample(
    logits: torch.Tensor,
    params: SamplingTensors | None,
    *,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    with_logprobs: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The next token of each row, and its log-probability under softmax(x).

    `logits` [S, V], bfloat16 or float32, rows of any stride; `params` None: every row greedy.
    `softcap` c makes c * tanh(x / c) of scaled logits. -> token ids [S] int64; log-probabilities
    [S] float32, or None without `with_logprobs`. Equal logits: the lowest id. Raises ValueError
    for shapes that do not belong together, and a scale or cap that is not positive.
    """
    _check(logits, params, logit_scale, softcap)
    if use_triton(logits):
        return sample_triton(logits, params, logit_scale, softcap, with_logprobs)
    return _sample_reference(logits, params, logit_scale, softcap, with_logprobs)


def _check(
    logits: torch.Tensor,
    params: SamplingTensors | None,
    logit_scale: float,
    softcap: float | None,
) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [S, V] with V > 0, not {list(logits.shape)}")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError("the last dimension of the logits must be contiguous")
    if logit_scale <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"logit_scale {logit_scale} and softcap {softcap} must be positive")
    if params is None:
        return
    rows = logits.shape[0]
    names = ["temperature", "top_k", "top_p", "min_p", "seed", "position"]
    if (params.penalty is None) != (params.history is None):
        raise ValueError("penalty and history go together: give both or neither")
    if params.penalty is not None:
        names.append("penalty")
        if params.history.ndim != 2 or params.history.shape[0] != rows:
            raise ValueError(f"history must be [{rows}, L], not {list(params.history.shape)}")
    for name in names:
        if getattr(params, name).shape != (rows,):
            shape = list(getattr(params, name).shape)
            raise ValueError(f"{name} must be [{rows}] as the logits have rows, not {shape}")


def _sample_reference(
    logits: torch.Tensor,
    params: SamplingTensors | None,
    logit_scale: float,
    softcap: float | None,
    with_logprobs: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    x = logits
    if params is None and not with_logprobs and softcap is None and x.dtype == torch.bfloat16:
        return _argmax(x), None  # bfloat16 values scaled in float32 stay as they are ordered
    if logit_scale != 1 or softcap is not None:
        x = logits.float() * logit_scale
        if softcap is not None:
            x = x.div_(softcap).tanh_().mul_(softcap)
    tokens = _argmax(x) if params is None else _drawn(x.float(), params)
    if not with_logprobs:
        return tokens, None
    x = x.float()
    return tokens, x.gather(1, tokens.unsqueeze(1)).squeeze(1) - x.logsumexp(1)


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest of each row [S, V]; the first NaN where there is one."""
    if use_native(logits):
        rows, v = logits.shape
        tokens = logits.new_empty(rows, dtype=torch.int64)
        pointers = logits.data_ptr(), tokens.data_ptr()
        _ARGMAX(*pointers, rows, v, logits.stride(0), is_bf16(logits))
        return tokens
    # `max` is vectorised on the CPU, `argmax` over bfloat16 is not.
    return logits.max(-1).indices


def _drawn(x: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Tokens of `x` [S, V] float32."""
    y = x
    if params.penalty is not None:
        y = _penalised(x, params.history, params.penalty)
    tokens = _argmax(y)
    v = y.shape[1]
    with_k = (params.top_k > 0) & (params.top_k < v)
    filtered = with_k | (params.top_p < 1) | (params.min_p > 0)
    noisy = params.temperature > 0
    sharpness = LOG2E / params.temperature.float().clamp(min=COLDEST)
    keys = noise_keys_reference(params.seed, params.position)
    every_id = torch.arange(v, device=y.device)
    rows = (noisy & ~filtered).nonzero().flatten()
    for part in rows.split(max(1, _CACHED // v)):
        score = noise(every_id, tuple(key[part].unsqueeze(1) for key in keys))
        tokens[part] = _argmax(score.addcmul_(y[part], sharpness[part].unsqueeze(1)))
    rows = (noisy & filtered).nonzero().flatten()
    if len(rows):
        kept = _kept(y[rows], sharpness[rows], *(
            column[rows] for column in (params.top_k, with_k, params.top_p, params.min_p)
        ))  # fmt: skip
        at, ids = kept.nonzero(as_tuple=True)
        row = rows[at]
        score = noise(ids, tuple(key[row] for key in keys)) + y[row, ids] * sharpness[row]
        best = score.new_full((len(rows),), -torch.inf).scatter_reduce_(0, at, score, "amax")
        first = torch.where(score == best[at], ids, v)
        drawn = tokens.new_full((len(rows),), v).scatter_reduce_(0, at, first, "amin")
        tokens[rows] = torch.where(drawn < v, drawn, tokens[rows])
    return tokens


def _penalised(x: torch.Tensor, history: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    seen = x.gather(1, history)
    penalty = penalty.float().unsqueeze(1)
    return x.scatter(1, history, torch.where(seen > 0, seen * (1 / penalty), seen * penalty))


def _kept(
    y: torch.Tensor,
    sharpness: torch.Tensor,
    top_k: torch.Tensor,
    with_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """Which ids of `y` [R, V] the filters keep; `sharpness` is log2(e) / temperature."""
    largest, sharpness = y.amax(1, keepdim=True), sharpness.unsqueeze(1)
    threshold = y.new_full((len(y), 1), -torch.inf)
    rows = (with_k | (top_p < 1)).nonzero().flatten()
    v = y.shape[1]
    ranks = min(v, max(_RANKS, 2 * int(torch.where(with_k, top_k, 0).max())))
    while len(rows):
        part = y[rows]
        top, s = largest[rows], sharpness[rows]
        ranked = part.topk(ranks).values if ranks < v else part.sort(1, descending=True).values
        k = torch.where(with_k, top_k, ranks)[rows].unsqueeze(1)
        limited = with_k[rows].unsqueeze(1)
        floor = torch.where(limited, ranked.gather(1, k.clamp(max=ranks) - 1), -torch.inf)
        p = torch.where(top_p < 1, top_p, torch.inf)[rows].unsqueeze(1)
        weight = ((ranked - top) * s).exp2_().masked_fill_(ranked < floor, 0.0).double()
        total = weight.sum(1, keepdim=True)
        if ranks < v and not limited.all():
            every = ((part - top) * s).exp2_().sum(1, keepdim=True, dtype=torch.float64)
            total = torch.where(limited, total, every)
        upto = weight.cumsum(1)
        count = (upto - weight < p * total).sum(1, keepdim=True).clamp(min=1)
        threshold[rows] = ranked.gather(1, count - 1).maximum(floor)
        # Resolved, unless what lies beyond the ranks matters: equals of the k-th, or more mass.
        settled = torch.where(limited, ranked[:, -1:] < floor, upto[:, -1:] >= p * total)
        rows = rows[~settled.flatten()] if ranks < v else rows[:0]
        ranks = min(v, 16 * ranks)
    return (y >= threshold) & ((y - largest) * sharpness >= min_p.float().log2().unsqueeze(1))
