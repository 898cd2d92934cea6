"""An engine without a model, of the same API: it answers in Arabic letters, at once or slowly.

`invariant=False` makes its answers depend on a request's place in its `generate` call, as
batched arithmetic makes a real model's depend on its neighbours. `careless=True` makes it spoil
some texts as weak models do: marks of masked text lost, lines run together. Run as a program it is
`hala-engine` with this engine in place of the real one; FAKE_ENGINE holds its options as JSON, and
FAKE_CRASH where the process is to kill itself.
"""

import itertools
import json
import os
import random
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from hala_engine.errors import InputError

_ARABIC = {latin: chr(0x0628 + index) for index, latin in enumerate("abcdefghijklmnopqrs")}
_ARABIC |= {latin: chr(0x0641 + index) for index, latin in enumerate("tuvwxyz")}
_MARK = re.compile(r"(<x\d+/>)")
_PROMPT = "Translate from English to Arabic: "


def fake_translation(text: str) -> str:
    """Every letter in Arabic script; marks of masked text as they are."""
    parts = _MARK.split(text)
    parts[::2] = ["".join(_ARABIC.get(c, c) for c in part.lower()) for part in parts[::2]]
    return "".join(parts)


class FakeTokenizer:
    """A token is a word with the white space before it; ids are interned on first sight."""

    has_chat_template = True

    def __init__(self):
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text):
        words = []
        for space, group in itertools.groupby(text, str.isspace):
            chunk = "".join(group)
            if space:
                words.append(chunk)
            else:
                parts = [chunk[i : i + 12] for i in range(0, len(chunk), 12)]
                parts[0] = (words.pop() if words else "") + parts[0]
                words += parts
        return [1, *(self._id(word) for word in words)]

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def apply_chat(self, messages):
        return self.encode("".join(message["content"] for message in messages))

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
class FakeOutput:
    index: int
    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    error: str | None = None
    logprobs: None = None


@dataclass
class FakeEngine:
    invariant: bool = True
    careless: bool = False
    delay: float = 0.0
    max_model_len: int = 512
    fingerprint: str = "fake-1"
    model_path: Path = Path("/models/fake")
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    stats: FakeStats = field(default_factory=FakeStats)
    seen: list[str] = field(default_factory=list)

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
        text = self.tokenizer.decode(ids).removeprefix(_PROMPT)
        self.seen.append(text)
        if len(ids) >= self.max_model_len:
            return FakeOutput(index, "", [], len(ids), "error", "the prompt is too long")
        if "explode" in text:
            return FakeOutput(index, "", [], len(ids), "error", "it exploded")
        if self.careless and len(text) % 3:
            text = _MARK.sub("", text) if len(text) % 3 == 1 else " ".join(text.split())
        words = fake_translation(text).split(" ")
        reason = "length" if len(words) > param.max_new_tokens else "stop"
        answer = " ".join(words[: param.max_new_tokens])
        if not self.invariant and index % 7 == 3:
            answer += " ون"
        if param.temperature > 0:
            answer += f" {param.seed}"
        tokens = self.tokenizer.encode(answer)
        self.stats.prompt_tokens += len(ids)
        self.stats.output_tokens += len(tokens)
        return FakeOutput(index, answer, tokens, len(ids), reason)


def kill_at(point, number=1, of=""):
    """Kill this process, as kill -9 does, when it comes to a point for the `number`-th time; `of`
    is in the name of the file that is renamed."""
    from hala_engine.jobs.answers import Answers

    passed = itertools.count(1)

    def die_if_it_is_time():
        if next(passed) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    rename, commit, generate = Path.replace, Answers.commit, FakeEngine.generate

    def renaming(self, target):
        if point == "before rename" and of in target.name:
            die_if_it_is_time()
        renamed = rename(self, target)
        if point == "after rename" and of in target.name:
            die_if_it_is_time()
        return renamed

    def committing(self):
        def dying(block):
            for row in block:
                die_if_it_is_time()
                yield row

        if self._block and point == "commit":
            self._block = dying(self._block)
        commit(self)

    def generating(self, *arguments, **options):
        for output in generate(self, *arguments, **options):
            if point == "output":
                die_if_it_is_time()
            yield output

    Path.replace, Answers.commit, FakeEngine.generate = renaming, committing, generating


def main():
    from hala_engine.cli import main as command
    from hala_engine.jobs import blocks, job

    options = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
    blocks.BLOCK_BATCHES = options.pop("block_batches", blocks.BLOCK_BATCHES)
    if crash := os.environ.get("FAKE_CRASH"):
        kill_at(**json.loads(crash))

    def load(config):
        if config.model == "missing":
            raise InputError("no such model")
        return FakeEngine(**options)

    job.load_engine = load
    command()


if __name__ == "__main__":
    main()
