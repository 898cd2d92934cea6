"""What is decoded: prompts of random token ids, each with a forced number of new tokens. Imports no
torch, so that commands can check their flags before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hala_engine.errors import InputError

Range = tuple[int, int]


@dataclass(frozen=True)
class Workload:
    """`requests` requests whose lengths are drawn uniformly from two closed ranges. Raises
    InputError for ranges that cannot be."""

    requests: int
    prompt_len: Range
    output_len: Range
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise InputError(f"--requests {self.requests}: must be 1 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        for flag, (low, high) in (
            ("--prompt-len", self.prompt_len),
            ("--output-len", self.output_len),
        ):
            if not 1 <= low <= high:
                raise InputError(f"{flag} {low}:{high}: give A:B with 1 <= A <= B")

    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each prompt, and new tokens of each; the same in every repeat."""
        rng = np.random.default_rng(self.seed)
        prompt, output = (
            rng.integers(low, high + 1, self.requests).tolist()
            for low, high in (self.prompt_len, self.output_len)
        )
        return prompt, output

    def prompts(self, vocab_size: int, repeat: int) -> list[list[int]]:
        """Token ids; other ones in every repeat, lest something of them be in a cache."""
        rng = np.random.default_rng((self.seed, 1 + repeat))
        return [rng.integers(0, vocab_size, n).tolist() for n in self.lengths()[0]]

    @property
    def longest(self) -> int:
        """Tokens of the longest request that may be drawn."""
        return self.prompt_len[1] + self.output_len[1]


def parse_range(flag: str, text: str) -> Range:
    """ "A:B", or "A" for A:A. Raises InputError."""
    if not (match := re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())):
        raise InputError(f"{flag} {text!r}: give A:B, such as 16:64, or one number")
    low = int(match[1])
    return low, int(match[2]) if match[2] else low
