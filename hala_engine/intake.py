"""Requests on their way in: pulled from a stream block by block and tokenized together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from hala_engine.errors import InputError
from hala_engine.sampling import SamplingParams
from hala_engine.tokenizer import Tokenizer

Prompt = str | list[int] | list[dict]
"""Plain text, token ids, or chat messages."""


@dataclass(frozen=True)
class Request:
    """`ids` is None where `error` says why the prompt has none."""

    index: int
    params: SamplingParams
    ids: list[int] | None
    error: str | None = None


class Intake:
    """`in_thread`: the next block is tokenized in a thread while the engine works on this one. That
    is for a GPU: on a CPU the thread would take cores from the step.

    tokenizer: None where prompts are token ids only.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt],
        params: Iterator[SamplingParams],
        tokenizer: Tokenizer | None,
        *,
        block: int,
        in_thread: bool,
    ) -> None:
        self._stream = enumerate(prompts)
        self._params = params
        self._tokenizer = tokenizer
        self._block = block
        self._thread = ThreadPoolExecutor(1, "tokenizer") if in_thread else None
        self._coming: Future[list[Request]] | None = None

    def next_block(self) -> list[Request]:
        """The next requests of the stream, in its order; empty at its end."""
        if self._thread is None:
            return self._tokenized(self._pull())
        coming = self._coming or self._begin()
        requests = coming.result()
        self._coming = self._begin() if requests else None
        return requests

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _begin(self) -> Future[list[Request]]:
        # The stream is the caller's: it is pulled in the caller's thread.
        return self._thread.submit(self._tokenized, self._pull())

    def _pull(self) -> list[tuple[int, Prompt, SamplingParams]]:
        block = []
        for index, prompt in islice(self._stream, self._block):
            params = next(self._params, None)
            if params is None:
                raise ValueError(f"there are only {index} sampling params for more prompts")
            block.append((index, prompt, params))
        return block

    def _tokenized(self, block: list[tuple[int, Prompt, SamplingParams]]) -> list[Request]:
        found = dict(self._encoded([(index, prompt) for index, prompt, _ in block]))
        return [
            Request(index, params, None, result)
            if isinstance(result := found[index], str)
            else Request(index, params, result)
            for index, _, params in block
        ]

    def _encoded(self, prompts: list[tuple[int, Prompt]]) -> Iterator[tuple[int, list[int] | str]]:
        """The ids of each prompt by its index, or what is wrong with it."""
        texts = []
        for index, prompt in prompts:
            if self._tokenizer is None and (isinstance(prompt, str) or _is_chat(prompt)):
                yield index, "without a tokenizer a prompt must be token ids"
            elif isinstance(prompt, str):
                texts.append((index, prompt))
            elif _is_chat(prompt):
                try:
                    yield index, self._tokenizer.apply_chat(prompt)
                except InputError as error:
                    yield index, str(error)
            else:
                yield index, list(prompt)
        if texts:
            encoded = self._tokenizer.encode_batch([text for _, text in texts])
            yield from zip((index for index, _ in texts), encoded, strict=True)


def _is_chat(prompt: Prompt) -> bool:
    return bool(prompt) and isinstance(prompt[0], dict)
