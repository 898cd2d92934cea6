"""Requests through the engine in blocks, each kept when it is done.

Matrix products of a batch are not bit-identical to those of another batch, and a near tie between
two tokens can then fall the other way. So the engine is drained at a block's end and forgets what
it shared, which makes a block's answers depend on its own requests alone, and they are kept
together: an interrupted block is made again as a whole, with the same bytes. When the engine says
that it is `batch_invariant` (--deterministic) nothing needs draining, and answers are kept as they
come, a batch at a time.
"""

from collections.abc import Iterator
from itertools import chain, islice, tee
from typing import TYPE_CHECKING, NamedTuple

from hala_engine.jobs.answers import Answer, Answers
from hala_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from hala_engine.engine import Engine, Output

BLOCK_BATCHES = 32
"""Full batches after which the engine is drained and what it gave is kept. A drain costs about one
batch's time, so about 3%; an interruption loses at most a block."""


class Request(NamedTuple):
    """question: what the answer is kept under."""

    question: str
    ids: list[int]
    params: SamplingParams


class Asker:
    """Puts a job's questions to the engine. `greedy`: no answer depends on a draw."""

    def __init__(self, engine: "Engine", greedy: bool):
        self.engine = engine
        self._stand_alone = engine.batch_invariant and greedy

    def ask(self, requests: Iterator[Request], answers: Answers) -> Iterator[tuple[str, Answer]]:
        """(question, answer) as they come; each is kept in `answers`.

        `requests` is read as the engine has room, and not beyond a block before all of the block's
        answers have been given.
        """
        size = BLOCK_BATCHES * self.engine.stats.max_batch_size
        while (first := next(requests, None)) is not None:
            rest = requests if self._stand_alone else islice(requests, size - 1)
            yield from self._block(chain((first,), rest), answers)

    def _block(self, block: Iterator[Request], answers: Answers) -> Iterator[tuple[str, Answer]]:
        questions: list[str] = []

        def prompts() -> Iterator[list[int]]:
            for request in ahead:
                questions.append(request.question)
                yield request.ids

        if not self._stand_alone:
            self.engine.forget()
        ahead, behind = tee(block)
        params = (request.params for request in behind)
        outputs = self.engine.generate(prompts(), params, ordered=False)
        try:
            for output in outputs:
                question, answer = questions[output.index], _answer(output)
                answers.put(question, answer)
                if self._stand_alone and answers.pending >= self.engine.stats.max_batch_size:
                    answers.commit()
                yield question, answer
        except BaseException:
            if not self._stand_alone:
                answers.forget()
            raise
        finally:
            outputs.close()
            answers.commit()


def _answer(output: "Output") -> Answer:
    scores = ()
    if output.logprobs:
        scores = tuple(output.logprobs[0].top.values())
    return Answer(
        text=output.text.strip(),
        prompt_tokens=output.prompt_tokens,
        output_tokens=len(output.token_ids),
        finish_reason=output.finish_reason,
        error=output.error,
        scores=scores,
    )
