"""What is decoded: prompts of random token ids with a forced number of new tokens each."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Ids below this are special tokens in LFM2's vocabulary; a prompt has no use for them.
FIRST_ORDINARY_ID = 64


@dataclass(frozen=True)
class Workload:
    """`requests` prompts; lengths are drawn uniformly from the two closed ranges.

    `batch` is how many sequences may be held at a time: the padded batch of a static engine, the
    slots of a continuous one.
    """

    name: str
    requests: int
    batch: int
    prompt_range: tuple[int, int]
    output_range: tuple[int, int]
    seed: int = 0

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Workload":
        ranges = {key: tuple(data[key]) for key in ("prompt_range", "output_range")}
        return cls(**{**data, **ranges})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lengths(self) -> tuple[list[int], list[int]]:
        """Prompt lengths and output lengths. They do not depend on the seed of the contents."""
        rng = np.random.default_rng(1)
        prompt = rng.integers(self.prompt_range[0], self.prompt_range[1] + 1, self.requests)
        output = rng.integers(self.output_range[0], self.output_range[1] + 1, self.requests)
        return prompt.tolist(), output.tolist()

    def prompts(self, vocab_size: int) -> list[list[int]]:
        rng = np.random.default_rng(self.seed)
        prompt_lengths, _ = self.lengths()
        return [rng.integers(FIRST_ORDINARY_ID, vocab_size, n).tolist() for n in prompt_lengths]

    def longest(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return max(p + n for p, n in zip(*self.lengths(), strict=True))

    def padded_tokens(self) -> int:
        """Most tokens cached by a static engine that pads each batch in arrival order."""
        prompt, output = self.lengths()
        starts = range(0, self.requests, self.batch)
        return max(
            min(self.batch, self.requests - i)
            * (max(prompt[i : i + self.batch]) + max(output[i : i + self.batch]))
            for i in starts
        )


def uniform(batch: int, prompt: int = 64, output: int = 32, seed: int = 0) -> Workload:
    name = f"uniform-{batch}" if output > 1 else f"prefill-{batch}"
    return Workload(name, batch, batch, (prompt, prompt), (output, output), seed)


def mixed(requests: int, batch: int = 32, seed: int = 0) -> Workload:
    return Workload("mixed", requests, batch, (16, 256), (8, 128), seed)
