"""The checkpoint before and after, on lines of English: how far next-token predictions moved.

Both run in float32 on the CPU, one after the other, so that memory holds one of them at a time and
the difference is the weights' alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hala_engine.errors import InputError, JobError
from hala_engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hala_engine.logprobs import TokenLogprob

LINES = (
    "The river rises in the mountains and reaches the sea two hundred miles further south.",
    "Please describe the steps needed to bake a simple loaf of bread at home.",
    "She opened the letter slowly, as if she already knew what it would say.",
    "A prime number has exactly two divisors: one and the number itself.",
    "The committee will meet on Tuesday to discuss the budget for the coming year.",
    "Water boils at a lower temperature when the air pressure is lower.",
    "Can you explain the difference between weather and climate in two sentences?",
    "The train was late again, so we walked along the canal to the next station.",
    "To sort a list, compare neighbouring items and swap those in the wrong order.",
    "Most birds migrate at night, when the air is calm and predators are asleep.",
    "The museum keeps a small collection of maps drawn before the coast was surveyed.",
    "Write a short thank-you note to a colleague who helped you finish a project.",
    "Light takes a little more than eight minutes to travel from the Sun to the Earth.",
    "He planted three apple trees behind the house, and only one of them survived.",
    "An invoice must show the date, the amount due and the name of the customer.",
    "The old bridge was closed to traffic after engineers found cracks in its supports.",
)


TOP = 64
"""Likeliest tokens that predictions are compared on; all others count as one."""


@dataclass(frozen=True)
class Comparison:
    """Over every token of the lines but each line's first.

    divergence: mean Kullback-Leibler divergence of the new prediction from the old, in nats, on the
    old one's TOP likeliest tokens and the rest. same_top: share of positions where both predict the
    same next token. perplexity_before, perplexity_after: of the lines.
    """

    lines: int
    tokens: int
    divergence: float
    same_top: float
    perplexity_before: float
    perplexity_after: float

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.lines} lines, {self.tokens:,} tokens: same next token at {self.same_top:.1%} "
            f"of positions, mean KL divergence {self.divergence:.5f} nats, "
            f"perplexity {self.perplexity_before:,.3f} -> {self.perplexity_after:,.3f}"
        )


def encode_lines(model: Path, count: int) -> list[list[int]]:
    """Token ids of the first `count` lines. Raises InputError for a count out of range and a model
    without a tokenizer."""
    if not 1 <= count <= len(LINES):
        raise InputError(f"--verify {count}: give a number of lines from 1 to {len(LINES)}")
    encoded = Tokenizer(model).encode_batch(LINES[:count])
    if any(len(ids) < 2 for ids in encoded):
        raise InputError(
            f"--verify: the tokenizer of {model} makes fewer than two tokens of a line"
        )
    return encoded


def compare(before: Path, after: Path, lines: Sequence[Sequence[int]]) -> Comparison:
    """Both models' predictions on `lines` of token ids. Raises JobError if a line cannot run."""
    # Every beginning of a line is a prompt of its own: that shows the likeliest token everywhere.
    places = [(list(ids[:end]), ids[end]) for ids in lines for end in range(1, len(ids))]
    prompts, actual = zip(*places, strict=True)
    old = _predict(before, prompts, TOP, [(token,) for token in actual])
    likeliest = [list(prediction.top)[:TOP] for prediction in old]
    asked = [(*top, token) for top, token in zip(likeliest, actual, strict=True)]
    new = _predict(after, prompts, 1, asked)
    divergence = sum(
        _divergence([o.top[i] for i in top], [n.top[i] for i in top])
        for o, n, top in zip(old, new, likeliest, strict=True)
    )
    count = len(places)
    return Comparison(
        lines=len(lines),
        tokens=count,
        divergence=divergence / count,
        same_top=sum(o.token_id == n.token_id for o, n in zip(old, new, strict=True)) / count,
        perplexity_before=_perplexity(old, actual),
        perplexity_after=_perplexity(new, actual),
    )


def _predict(
    model: Path,
    prompts: Sequence[list[int]],
    top: int,
    asked: Sequence[tuple[int, ...]],
) -> list[TokenLogprob]:
    """The greedy next token of each prompt, with the log-probabilities of the `top` likeliest ones
    and of those `asked` for."""
    from hala_engine import Engine, EngineConfig, SamplingParams

    engine = Engine(model, config=EngineConfig(device="cpu", dtype="float32"))
    params = (
        SamplingParams(max_new_tokens=1, ignore_eos=True, logprobs=top, logprob_token_ids=tokens)
        for tokens in asked
    )
    predictions = []
    for output in engine.generate(prompts, params):
        if output.error:
            raise JobError(f"--verify: {model} did not run: {output.error}")
        predictions += output.logprobs
    return predictions


def _divergence(old: list[float], new: list[float]) -> float:
    """KL(old || new) of log-probabilities of the same tokens; what they lack to 1 is one more."""
    total = sum(math.exp(p) * (p - q) for p, q in zip(old, new, strict=True))
    rest_old, rest_new = (1 - sum(math.exp(p) for p in some) for some in (old, new))
    if min(rest_old, rest_new) > 1e-6:  # below that it is rounding
        total += rest_old * math.log(rest_old / rest_new)
    return total


def _perplexity(predictions: list[TokenLogprob], actual: Sequence[int]) -> float:
    logprobs = [p.top[token] for p, token in zip(predictions, actual, strict=True)]
    return math.exp(-sum(logprobs) / len(logprobs))
