"""How to choose tokens, and when to stop. Imports no torch, so that commands can check their flags
before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hala_engine.tokenizer import IncrementalDetokenizer


@dataclass(frozen=True)
class SamplingParams:
    """Raises ValueError, one line, for values outside their range.

    temperature: 0 is greedy. top_k: 0 is off. top_p, min_p: probabilities; 1 and 0 are off.
    repetition_penalty: as in CTRL (arXiv 1909.05858), over prompt and output; 1 is off.
    seed: None derives one from the engine's seed and the request's index.
    stop: strings; the text ends before the first of them. stop_token_ids: beside the model's own
    end-of-sequence ids, which `ignore_eos` turns off.
    logprobs: give the log-probability of each output token and so many of the likeliest; None: no.
    logprob_token_ids: and of these tokens, at each place. prompt_logprobs: and of the prompt's own
    tokens. All under the model's softmax, before temperature, penalty and filters.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logprob_token_ids: tuple[int, ...] = ()
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            (0 <= self.temperature < math.inf, "temperature must be 0 (greedy) or above"),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (self.top_k >= 0, "top_k must be 0 (off) or above"),
            (0 <= self.min_p < 1, "min_p must be at least 0 (off) and below 1"),
            (0 < self.repetition_penalty < math.inf, "repetition_penalty must be above 0"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed must be from 0 to 2**63 - 1"),
            (all(self.stop), "stop strings must not be empty"),
            (self.logprobs is None or self.logprobs >= 0, "logprobs must be 0 or above"),
        )
        for holds, message in checks:
            if not holds:
                raise ValueError(message)

    @property
    def is_plain_greedy(self) -> bool:
        """The next token is the argmax of the raw logits."""
        return self.temperature == 0 and self.repetition_penalty == 1

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None or bool(self.logprob_token_ids)


class StopStrings:
    """Watches the text of one request for its stop strings."""

    def __init__(self, stop: tuple[str, ...], detokenizer: IncrementalDetokenizer) -> None:
        self._stop = stop
        self._longest = max(map(len, stop))
        self._detokenizer = detokenizer
        self._text = ""

    def push(self, token_id: int) -> str | None:
        """The text before the stop string, once one has appeared; None until then."""
        new = self._detokenizer.push(token_id)
        if not new:
            return None
        searched_from = max(0, len(self._text) - self._longest + 1)
        self._text += new
        found = [at for s in self._stop if (at := self._text.find(s, searched_from)) >= 0]
        return self._text[: min(found)] if found else None
