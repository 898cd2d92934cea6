"""The sampler against plain statements of each filter, in float64."""

from __future__ import annotations

import pytest
import torch

from hala_kernels.sample import SamplingTensors, sample, uniform


def tensors(rows: int, **values) -> SamplingTensors:
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
    types = {"top_k": torch.int64, "seed": torch.int64}
    columns = {
        name: torch.as_tensor(values.get(name, value), dtype=types.get(name, torch.float32)).expand(
            rows
        )
        for name, value in defaults.items()
    }
    return SamplingTensors(**columns, position=torch.arange(rows))


def frequencies(logits: torch.Tensor, draws: int = 40_000, **values) -> torch.Tensor:
    tokens = sample(logits.expand(draws, -1), tensors(draws, **values))
    return torch.bincount(tokens, minlength=len(logits)).double() / draws


LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.2, 1.9, -4.0, 0.0, 0.9])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    expected = (LOGITS.double() / temperature).softmax(0)
    got = frequencies(LOGITS, temperature=temperature)
    assert (got - expected).abs().max() < 0.012


def kept_by(filter_name: str, value: float) -> set[int]:
    p = LOGITS.double().softmax(0)
    order = p.argsort(descending=True).tolist()
    if filter_name == "top_k":
        return set(order[: int(value)])
    if filter_name == "min_p":
        return {i for i in order if p[i] >= value * p.max()}
    kept, total = set(), 0.0
    for i in order:
        if total >= value:
            break
        kept.add(i)
        total += p[i].item()
    return kept


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 1), ("top_k", 3), ("top_p", 0.3), ("top_p", 0.8), ("min_p", 0.2), ("min_p", 0.6)],
)
def test_filters_keep_exactly_the_right_tokens(name, value):
    kept = kept_by(name, value)
    got = frequencies(LOGITS, **{name: value})
    assert set(got.nonzero().flatten().tolist()) == kept
    inside = torch.zeros_like(got)
    members = torch.tensor(sorted(kept))
    inside[members] = LOGITS.double()[members].softmax(0)
    assert (got - inside).abs().max() < 0.012


def test_temperature_zero_is_argmax_whatever_the_filters():
    logits = torch.randn(50, 100)
    got = sample(logits, tensors(50, temperature=0.0, top_k=5, top_p=0.5))
    assert torch.equal(got, logits.argmax(-1))
    assert torch.equal(sample(logits, None), logits.argmax(-1))


def test_repetition_penalty_divides_positive_and_multiplies_negative():
    logits = torch.tensor([[3.0, 2.0, -1.0, -1.5]])
    params = tensors(1, temperature=0.0)
    history = torch.tensor([[0, 0, 2]])
    penalised = SamplingTensors(
        **{**params.__dict__, "penalty": torch.tensor([2.0]), "history": history}
    )
    assert sample(logits, penalised).item() == 1  # 3 / 2 falls below 2
    only_negative = torch.tensor([[-2.0, -1.9, -1.0, -1.5]])
    assert sample(only_negative, penalised).item() == 3  # -1 * 2 falls below -1.5


def test_extreme_logits_never_draw_an_impossible_token():
    logits = torch.full((200, 64), -1e30)
    logits[:, 17] = 1e4
    logits[:, 18] = float("-inf")
    assert (sample(logits, tensors(200)) == 17).all()


def test_uniform_is_uniform_and_reproducible():
    position = torch.arange(100_000)
    values = uniform(torch.tensor(7), position)
    assert torch.equal(values, uniform(torch.tensor(7), position))
    assert values.min() >= 0 and values.max() < 1
    assert (torch.histc(values, 20, 0, 1) / 5000 - 1).abs().max() < 0.06
    other = uniform(torch.tensor(8), position)
    assert abs(torch.corrcoef(torch.stack((values, other)))[0, 1]) < 0.01
