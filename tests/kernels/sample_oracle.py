"""Plain statements of the sampler's filters, in float64, and parameters for its tests."""

from __future__ import annotations

import torch

from hala_kernels.sample import SamplingTensors
from hala_kernels.sample_noise import noise, noise_keys_reference

COLUMNS = {
    "temperature": (1.0, torch.float32),
    "top_k": (0, torch.int64),
    "top_p": (1.0, torch.float32),
    "min_p": (0.0, torch.float32),
    "seed": (0, torch.int64),
    "position": (None, torch.int64),
}


def tensors(rows: int, device: torch.device, history=None, penalty=1.0, **values):
    """A value for all rows, or one for each."""
    unknown = set(values) - set(COLUMNS)
    assert not unknown, unknown
    columns = {}
    for name, (default, dtype) in COLUMNS.items():
        value = values.get(name, default)
        value = torch.arange(rows) if value is None else torch.as_tensor(value, dtype=dtype)
        columns[name] = value.to(dtype).expand(rows).contiguous().to(device)
    if history is not None:
        columns["history"] = torch.as_tensor(history).expand(rows, -1).to(device)
        columns["penalty"] = torch.as_tensor(penalty, dtype=torch.float32).expand(rows).to(device)
    return SamplingTensors(**columns)


def exact_y(logits: torch.Tensor, params: SamplingTensors, logit_scale=1.0, softcap=None):
    """x and y in float64; scaling as float32 does it, since equal logits must stay equal."""
    x = (logits.float() * logit_scale).double()
    if softcap is not None:
        x = softcap * (x / softcap).tanh()
    y = x.clone()
    if params.history is not None:
        for row, ids in enumerate(params.history.tolist()):
            p = params.penalty[row].double()
            for i in set(ids):
                y[row, i] = x[row, i] / p if x[row, i] > 0 else x[row, i] * p
    return x, y


def exact_margin(y: torch.Tensor, params: SamplingTensors, row: int) -> torch.Tensor:
    """For each id, by how much of a filter's quantity it is inside (> 0) or outside (<= 0), in
    float64: near zero, rounding may decide. A filter that is off leaves infinity."""
    z = y[row] / params.temperature[row].double()
    margin = torch.full_like(z, torch.inf)
    k, p, min_p = params.top_k[row].item(), params.top_p[row].double(), params.min_p[row].double()
    larger = z.unsqueeze(1) < z.unsqueeze(0)  # [i, j]: j is larger than i
    kept = torch.ones_like(z, dtype=torch.bool)
    if 0 < k < len(z):
        kept = larger.sum(1) < k
        margin = torch.where(kept, margin, -torch.inf)
    share = (z - z.max()).exp() * kept
    if p < 1:
        above = (larger.double() @ share) / share.sum()
        below = torch.where(z == z.max(), torch.inf, p - above)
        margin = torch.minimum(margin, below)
    if min_p > 0:
        margin = torch.minimum(margin, (z - z.max()).exp() - min_p + 1e-300)
        margin = torch.where((z == z.max()) & (min_p <= 1), torch.inf, margin)
    return margin


def assert_drawn_from_the_kept(logits, params, tokens, **options) -> None:
    """Each token wins the race among the ids that float64 keeps, but for rounding."""
    _, y = exact_y(logits.cpu(), on_cpu(params), **options)
    params = on_cpu(params)
    for row, token in enumerate(tokens.tolist()):
        temperature = params.temperature[row].double()
        if temperature == 0:
            assert y[row, token] >= y[row].max() - 1e-5 * y[row].max().abs()
            continue
        margin = exact_margin(y, params, row)
        assert margin[token] > -1e-5, f"row {row}: {token} was filtered by {margin[token]}"
        keys = tuple(key[row] for key in noise_keys_reference(params.seed, params.position))
        z = y[row] / temperature * 1.4426950408889634
        score = z + noise(torch.arange(len(z)), keys).double()
        best = score[margin > 1e-5].max()
        slack = 1e-4 + 1e-6 * z[margin > 1e-5].abs().max()
        assert score[token] >= best - slack, f"row {row}: {token} lost to a kept id"


def on_cpu(params: SamplingTensors) -> SamplingTensors:
    return SamplingTensors(
        **{k: None if v is None else v.cpu() for k, v in params.__dict__.items()}
    )


def assert_logprobs(logits, params, tokens, logprobs, **options) -> None:
    x, _ = exact_y(logits.cpu(), on_cpu(params), **options)
    want = x.log_softmax(1).gather(1, tokens.cpu().unsqueeze(1)).squeeze(1)
    assert logprobs.dtype == torch.float32
    assert ((logprobs.cpu().double() - want).abs() <= 1e-5 + 1e-6 * x.abs().amax(1)).all()


def random_logits(rows: int, v: int, device, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, v, device=device) * spread
