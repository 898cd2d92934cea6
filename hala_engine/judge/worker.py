"""One shard's pairs through the engine: one prompt and one token for every different pair."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hala_engine.errors import InputError
from hala_engine.jobs.answers import Answer, Answers
from hala_engine.jobs.blocks import Asker, Request
from hala_engine.jobs.failures import FailedRows
from hala_engine.jobs.progress import Progress
from hala_engine.jobs.results import RowResult
from hala_engine.judge.config import ACCEPTED, REJECTED, JudgeConfig
from hala_engine.judge.prompts import PairPrompter
from hala_engine.rows.records import Records
from hala_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from hala_engine.engine import Engine

NO_NUMBERS = "the model gave no finite log-probabilities"


class Judge:
    """What all shards of a job share: engine, prompt, the two verdicts."""

    def __init__(self, engine: "Engine", config: JudgeConfig, context: int):
        self.config = config
        self.context = context
        self.asker = Asker(engine, greedy=True)
        self.prompter = PairPrompter(
            engine.tokenizer, config.template, config.verdicts, use_chat=config.chat_template
        )
        _refuse_no_room(len(self.prompter.ids("a", "a")), context)
        # Whatever token comes is an answer: what is looked at are the two verdicts' numbers.
        self.params = SamplingParams(
            max_new_tokens=1, ignore_eos=True, logprob_token_ids=self.prompter.verdict_ids
        )

    def work(
        self, records: Records, answers: Answers, progress: Progress, failed: FailedRows
    ) -> list[RowResult]:
        """One result a row."""
        shard = _Shard(self, records, answers, failed)
        for question, answer in self.asker.ask(shard.requests(), answers):
            shard.take(question, answer)
            progress.update(shard.rows_done, self.asker.engine.stats)
        return shard.results()


class _Shard:
    """The state of one shard: what each row waits for, and what has been answered."""

    def __init__(self, judge: Judge, records: Records, answers: Answers, failed: FailedRows):
        self._judge = judge
        self._config = config = judge.config
        self._sources = _values(records, config.source_column)
        self._targets = _values(records, config.target_column)
        self._kept = answers
        self._failed = failed
        self._rows: list[RowResult | str] = []  # a row's result, or the question that will give it
        self._verdicts: dict[str, RowResult] = {}
        self._waiting: dict[str, list[int]] = {}  # question in work -> rows that need it
        self.rows_done = 0

    def requests(self) -> Iterator[Request]:
        """A request for every different pair that has no answer yet, in the rows' order."""
        for row, (source, target) in enumerate(zip(self._sources, self._targets, strict=True)):
            result = self._without_asking(source, target)
            if result is not None:
                self._rows.append(result)
                self._done(row, result)
                continue
            source, target = source.strip(), target.strip()
            question = f"{len(source)} {source}{target}"
            self._rows.append(question)
            if question in self._waiting:
                self._waiting[question].append(row)
            elif question in self._verdicts:
                self._done(row, self._verdicts[question])
            else:
                self._waiting[question] = [row]
                yield from self._ask(question, source, target)

    def _ask(self, question: str, source: str, target: str) -> Iterator[Request]:
        """The question's request, unless its answer is known."""
        if kept := self._kept.get(question):
            self.take(question, kept)
            return
        ids = self._judge.prompter.ids(source, target)
        # Not left to the engine: that of a resumed job may have more room than the first one had.
        if len(ids) >= self._judge.context:
            problem = f"the prompt has {len(ids)} tokens, the context is {self._judge.context}"
            self._settle(question, self._failed_pair(problem))
            return
        yield Request(question, ids, self._judge.params)

    def take(self, question: str, answer: Answer) -> None:
        """Note one of the engine's answers."""
        self._settle(question, self._judged(answer))

    def _settle(self, question: str, result: RowResult) -> None:
        self._verdicts[question] = result
        for row in self._waiting.pop(question):
            self._done(row, result)

    def results(self) -> list[RowResult]:
        """One a row; all answers must be in."""
        return [self._verdicts[row] if isinstance(row, str) else row for row in self._rows]

    def _without_asking(self, source: Any, target: Any) -> RowResult | None:
        """The result of a row that the model need not see."""
        config = self._config
        named = ((config.source_column, source), (config.target_column, target))
        failures = [(name, _not_text(value)) for name, value in named if type(value) is not str]
        if failures:
            return RowResult(folder=None, failures=failures)
        if not source.strip() or not target.strip():
            scores = {"score": 0.0, "accept_logprob": None, "reject_logprob": None}
            return RowResult(folder=REJECTED, flags=["empty"], scores=scores)
        return None

    def _judged(self, answer: Answer) -> RowResult:
        if answer.error is not None:
            return self._failed_pair(answer.error)
        accept, reject = answer.scores
        if not (math.isfinite(accept) and math.isfinite(reject)):
            return self._failed_pair(NO_NUMBERS)
        score = _share(accept, reject)
        return RowResult(
            folder=ACCEPTED if score >= self._config.threshold else REJECTED,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            scores={"score": score, "accept_logprob": accept, "reject_logprob": reject},
        )

    def _failed_pair(self, reason: str) -> RowResult:
        columns = f"{self._config.source_column},{self._config.target_column}"
        return RowResult(folder=None, failures=[(columns, reason)])

    def _done(self, row: int, result: RowResult) -> None:
        self.rows_done += 1
        for column, reason in result.failures[:1]:
            self._failed.add(row, column, reason)


def _refuse_no_room(prompt: int, context: int) -> None:
    """Raises InputError when not the shortest pair fits, rather than let each row fail."""
    if prompt >= context:
        raise InputError(
            f"the prompt takes {prompt} of the model's {context} tokens of context, which leaves "
            "none for a pair; give a shorter --instruction or another --model"
        )


def _values(records: Records, name: str) -> list[Any]:
    """One value a row of a column, or of a field of its records."""
    column, *fields = name.split(".")
    values = records.column(column)
    for field in fields:
        values = [value.get(field) if isinstance(value, dict) else None for value in values]
    return values


def _not_text(value: Any) -> str:
    return "null or missing" if value is None else f"not text but {type(value).__name__}"


def _share(accept: float, reject: float) -> float:
    """P(accept) / (P(accept) + P(reject)) from their logarithms."""
    # exp overflows from 710 on, and beyond 700 the share is 0 in print and in effect.
    return 1 / (1 + math.exp(min(reject - accept, 700.0)))
