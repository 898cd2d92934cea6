"""An engine without a model, of the same API, that gives verdicts.

A pair that says `p0.8` is accepted with that probability, of the 0.9 that both verdicts have
together; others with 0.5. `invariant=False` makes the numbers depend on a request's place in its
`generate` call, as batched arithmetic makes a real model's depend on its neighbours. Run as a
program it is `hala-engine` with this engine in place of the real one; FAKE_ENGINE holds its options
as JSON.
"""

import itertools
import json
import math
import os
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

_WORD = re.compile(r"\s*\S+|\s+$")
_PAIR = re.compile(r"Source \(English\): (.*)\nTranslation \(Arabic\): (.*)\nVerdict:", re.S)


class FakeTokenizer:
    """A token is a word with the white space before it; ids are interned on first sight."""

    has_chat_template = True

    def __init__(self):
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text):
        return [1, *(self._id(word) for word in _WORD.findall(text))]

    def render_chat(self, messages):
        return "".join(f"<user> {message['content']} <judge>" for message in messages)

    def apply_chat(self, messages):
        return self.encode(self.render_chat(messages))

    def decode(self, ids):
        return "".join(self._words[i - 2] for i in ids if i > 1)

    def _id(self, word):
        if word not in self._ids:
            self._ids[word] = len(self._words) + 2
            self._words.append(word)
        return self._ids[word]


@dataclass
class FakeStats:
    max_batch_size: int = 8
    running: int = 8
    waiting: int = 0
    cache_use: float = 0.5
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class FakeLogprob:
    token_id: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True)
class FakeOutput:
    index: int
    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    error: str | None = None
    logprobs: list[FakeLogprob] | None = None


@dataclass
class FakeJudgeEngine:
    invariant: bool = True
    delay: float = 0.0
    max_model_len: int = 512
    fingerprint: str = "fake-1"
    model_path: Path = Path("/models/fake")
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    stats: FakeStats = field(default_factory=FakeStats)
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def batch_invariant(self):
        return self.invariant

    def forget(self):
        pass

    def generate(self, prompts, params, *, ordered=True):
        requests = zip(itertools.count(), prompts, params, strict=False)
        order = random.Random(0)
        while window := list(itertools.islice(requests, self.stats.max_batch_size)):
            if not ordered:
                order.shuffle(window)
            for index, ids, param in window:
                if self.delay:
                    time.sleep(self.delay)
                yield self._output(index, ids, param)

    def _output(self, index, ids, param):
        text = self.tokenizer.decode(ids)
        if pair := _PAIR.search(text):
            self.seen.append(pair.groups())
        if "explode" in text:
            return FakeOutput(index, "", [], len(ids), "error", "it exploded")
        said = re.search(r"p(0\.\d+)", text)
        accept = float(said[1]) if said else 0.5
        numbers = [math.log(0.9 * accept), math.log(0.9 * (1 - accept))]
        if "broken" in text:
            numbers = [math.nan, math.nan]
        if not self.invariant:
            numbers[0] -= 1e-6 * (index % 7)
        top = dict(zip(param.logprob_token_ids, numbers, strict=True))
        assert param.max_new_tokens == 1 and param.ignore_eos
        self.stats.prompt_tokens += len(ids)
        self.stats.output_tokens += 1
        answer = [FakeLogprob(0, -1.0, top)]
        return FakeOutput(index, "", [0], len(ids), "length", logprobs=answer)


def main():
    from hala_engine.cli import main as command
    from hala_engine.jobs import job

    options = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
    job.load_engine = lambda config: FakeJudgeEngine(**options)
    command()


if __name__ == "__main__":
    main()
