"""The job: count, load, then every row through the engine.

Rows are read as the engine has room and written, in input order, as they finish: what is in memory
are the rows in work, and those that wait for an earlier one.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING

from hala_engine.completions.config import CompletionsConfig
from hala_engine.completions.prompts import Prompter
from hala_engine.completions.rows import count_rows, read_rows
from hala_engine.completions.writing import Row, Writer
from hala_engine.errors import InputError
from hala_engine.jobs.job import load_engine
from hala_engine.jobs.progress import Progress, make_progress
from hala_engine.rows.inputs import InputFile, find_files
from hala_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from hala_engine.engine import Engine, Output


@dataclass(frozen=True)
class CompletionsResult:
    """`prompt_tokens` and `output_tokens` are the engine's: a prompt counts for each sample."""

    output: Path
    failures: Path
    rows: int
    failed_rows: int
    prompt_tokens: int
    output_tokens: int
    seconds: float


def complete(config: CompletionsConfig, *, quiet: bool = True) -> CompletionsResult:
    """Write `config.output`, complete or not at all. `seconds` is the time after loading.

    Raises InputError before any work is done, JobError when work has begun and cannot go on.
    """
    config.validate()
    files = find_files(config.inputs)
    _refuse_input_as_output(config, files)
    total = count_rows(config, files)
    engine = load_engine(config)
    prompter = Prompter(config, engine.tokenizer)
    begin = time.monotonic()
    with Writer(config, engine.tokenizer) as writer:
        work = _Work(config, islice(read_rows(files), config.limit), prompter, writer)
        _run(engine, work, make_progress(total, 0, quiet))
    return CompletionsResult(
        output=config.path,
        failures=config.failures,
        rows=writer.rows,
        failed_rows=writer.failed_rows,
        prompt_tokens=engine.stats.prompt_tokens,
        output_tokens=engine.stats.output_tokens,
        seconds=time.monotonic() - begin,
    )


def _refuse_input_as_output(config: CompletionsConfig, files: list[InputFile]) -> None:
    ours = {config.path.resolve(), config.failures.resolve()}
    for file in files:
        if Path(file.path) in ours:
            raise InputError(f"{file.path} would be both input and output; give another --output")


def _run(engine: "Engine", work: "_Work", progress: Progress) -> None:
    prompts, params = tee(work.requests())
    outputs = engine.generate(
        (ids for ids, _ in prompts), (param for _, param in params), ordered=False
    )
    with closing(progress), closing(outputs):
        for output in outputs:
            work.take(output)
            progress.update(work.rows_done, engine.stats)
        progress.shard_done(work.rows_done)


class _Work:
    """Which rows wait for which requests."""

    def __init__(
        self, config: CompletionsConfig, rows: Iterator[dict], prompter: Prompter, writer: Writer
    ):
        self._config, self._rows = config, rows
        self._prompter, self._writer = prompter, writer
        self._open: deque[Row] = deque()  # those that are not written, in input order
        self._asked: dict[int, tuple[Row, int]] = {}  # request -> its row, and which sample

    @property
    def rows_done(self) -> int:
        return self._writer.rows

    def requests(self) -> Iterator[tuple[list[int], SamplingParams]]:
        """Of every row that has a prompt, one for each sample."""
        asked = 0
        for number, values in enumerate(self._rows):
            row = Row(values, [None] * self._config.n)
            self._open.append(row)
            try:
                ids = self._prompter.ids(values)
            except InputError as error:
                row.reason = str(error)
                self._write_finished()
                continue
            for sample in range(self._config.n):
                self._asked[asked] = row, sample
                asked += 1
                yield ids, self._config.params(self._seed(number, sample))

    def take(self, output: "Output") -> None:
        """Note one of the engine's outputs."""
        row, sample = self._asked.pop(output.index)
        row.outputs[sample] = output
        row.reason = output.error
        self._write_finished()

    def _write_finished(self) -> None:
        while self._open and self._open[0].is_done:
            self._writer.write(self._open.popleft())

    def _seed(self, row: int, sample: int) -> int | None:
        """From the job's seed and the request's place in the input: what runs beside it, and where
        the input is cut into batches, makes no difference."""
        if self._config.generation.temperature == 0:
            return None
        digest = hashlib.sha256(f"{self._config.generation.seed} {row} {sample}".encode())
        return int.from_bytes(digest.digest()[:7])
