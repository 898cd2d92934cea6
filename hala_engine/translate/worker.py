"""One shard's rows through the engine: cut, prompt, translate, join, check."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, tee
from typing import TYPE_CHECKING, Any

from hala_engine.errors import JobError
from hala_engine.sampling import SamplingParams
from hala_engine.translate.budget import Budget
from hala_engine.translate.characters import whole_characters
from hala_engine.translate.checks import FLAGS, flags_of
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.journal import Journal, PieceResult
from hala_engine.translate.progress import Progress
from hala_engine.translate.prompts import Prompter
from hala_engine.translate.records import Records
from hala_engine.translate.segment import Piece, cut, trim

if TYPE_CHECKING:
    from hala_engine.engine import Engine

Request = tuple[list[int], SamplingParams]

BLOCK_BATCHES = 32
"""Full batches after which the engine is drained and what it gave is kept. A drain costs about one
batch's time, so about 3%; an interruption loses at most a block."""


@dataclass
class RowResult:
    """What is added to one row. `failures`: (column, reason) of the cells without a result."""

    values: dict[str, str | None] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


class Translator:
    """What all shards of a job share: engine, prompt, token budget."""

    def __init__(self, engine: "Engine", config: TranslateConfig, context: int):
        self.engine = engine
        self.config = config
        self.prompter = Prompter(
            engine.tokenizer,
            config.template,
            system=config.system,
            use_chat=config.chat_template,
        )
        self.budget = Budget.of(
            context,
            self.prompter.overhead,
            config.generation.max_new_tokens,
            config.max_segment_tokens,
        )

    def translate(
        self, records: Records, journal: Journal, progress: Progress, failures_left: int | None
    ) -> list[RowResult]:
        """One result a row. JobError as soon as more rows fail than `failures_left`."""
        work = _ShardWork(self, records, journal, failures_left)
        requests = work.requests()
        while True:
            work.begin_block()
            first = next(requests, None)
            if first is None:
                return [work.row(index) for index in range(len(records))]
            rest = requests if self._results_stand_alone else islice(requests, self._block - 1)
            self._run(chain((first,), rest), work, journal, progress)

    def _run(
        self,
        requests: Iterator[Request],
        work: "_ShardWork",
        journal: Journal,
        progress: Progress,
    ) -> None:
        """One block through the engine, to its last output."""
        prompts, params = tee(requests)
        outputs = self.engine.generate(
            (ids for ids, _ in prompts), (param for _, param in params), ordered=False
        )
        try:
            for output in outputs:
                work.take(output)
                if self._results_stand_alone:
                    journal.commit()
                progress.update(work.rows_done, self.engine.stats)
        finally:
            outputs.close()
        journal.commit()

    @property
    def _block(self) -> int:
        return BLOCK_BATCHES * self.engine.stats.max_batch_size

    @property
    def _results_stand_alone(self) -> bool:
        """A result does not depend on the others of its block, so it can be kept at once."""
        return self.engine.batch_invariant and self.config.generation.temperature == 0

    def pieces(self, text: str) -> tuple[list[Piece], list[int] | None]:
        """The text's pieces, and the prompt when a single one is to be translated."""
        pieces = trim(text)
        core = next((piece.text for piece in pieces if piece.translate), None)
        if core is None:
            return pieces, None
        ids = self.prompter.ids(core)
        if len(ids) - self.budget.overhead <= self.budget.segment:
            return pieces, ids
        return cut(text, self.budget.segment, self.prompter.count), None

    def request(self, text: str, ids: list[int]) -> Request:
        """A piece's request; its seed comes from its text, not from its place among others."""
        options = self.config.generation
        seed = None
        if options.temperature > 0:
            digest = hashlib.sha256(f"{options.seed}\n{text}".encode("utf-8", "surrogatepass"))
            seed = int.from_bytes(digest.digest()[:7])
        return ids, options.params(self.budget.new_tokens(len(ids)), seed)


class _ShardWork:
    """The state of one shard: which rows wait for which pieces."""

    def __init__(
        self,
        translator: Translator,
        records: Records,
        journal: Journal,
        failures_left: int | None,
    ):
        self._translator = translator
        self._config = translator.config
        self._columns = {name: records.column(name) for name in self._config.columns}
        self._rows = len(records)
        self._journal = journal
        self._failures_left = failures_left
        self._failed_rows: set[int] = set()
        self._pieces: dict[str, list[Piece]] = {}
        self._results: dict[str, PieceResult] = {}
        self._asked: list[str] = []  # the piece of each of the block's requests, by its index
        self._waiting: dict[str, list[int]] = {}  # piece in work -> rows that need it
        self._missing: dict[int, int] = {}  # row in work -> what it still needs
        self.rows_done = 0

    def begin_block(self) -> None:
        """The engine counts its outputs from 0 again."""
        self._asked = []

    def requests(self) -> Iterator[Request]:
        """A request for every different piece that has no result yet, in the rows' order."""
        for row in range(self._rows):
            # One more than its pieces, so that it is not done before all have been asked for.
            self._missing[row] = 1
            for column, values in self._columns.items():
                value = values[row]
                if isinstance(value, str):
                    yield from self._cell_requests(row, value)
                elif value is not None:
                    self._fail(row, column, _not_text(value))
            self._supply(row)

    def _cell_requests(self, row: int, text: str) -> Iterator[Request]:
        ids = None
        if text not in self._pieces:
            self._pieces[text], ids = self._translator.pieces(text)
        for piece in {piece.text: None for piece in self._pieces[text] if piece.translate}:
            if piece in self._results:
                continue
            if piece in self._waiting:
                self._wait(row, piece)
            elif kept := self._journal.get(piece):
                self._results[piece] = kept
            else:
                self._waiting[piece] = []
                self._wait(row, piece)
                self._asked.append(piece)
                yield self._translator.request(piece, ids or self._translator.prompter.ids(piece))

    def _wait(self, row: int, piece: str) -> None:
        self._waiting[piece].append(row)
        self._missing[row] += 1

    def _supply(self, row: int) -> None:
        """One thing that the row needed is there."""
        self._missing[row] -= 1
        if not self._missing[row]:
            del self._missing[row]
            self.rows_done += 1

    def take(self, output: Any) -> None:
        """Note one of the engine's outputs."""
        piece = self._asked[output.index]
        result = PieceResult(
            text=output.text.strip(),
            prompt_tokens=output.prompt_tokens,
            output_tokens=len(output.token_ids),
            finish_reason=output.finish_reason,
            error=output.error,
        )
        self._results[piece] = result
        self._journal.put(piece, result)
        for row in self._waiting.pop(piece):
            if result.error is not None:
                self._fail(row, "", result.error)
            self._supply(row)

    def _fail(self, row: int, column: str, reason: str) -> None:
        self._failed_rows.add(row)
        if self._failures_left is not None and len(self._failed_rows) > self._failures_left:
            where = f"column {column!r}: " if column else ""
            raise JobError(
                f"more rows failed than --max-failures {self._config.max_failures} allows; "
                f"the last: {where}{reason}"
            )

    def row(self, index: int) -> RowResult:
        """The finished row; all of the shard's results must be in."""
        result = RowResult()
        flags: set[str] = set()
        for column, values in self._columns.items():
            value = values[index]
            name = self._config.output_column(column)
            if isinstance(value, str):
                result.values[name] = self._join(value, column, result, flags)
            else:
                result.values[name] = None
                if value is None:
                    flags.add("empty")
                else:
                    result.failures.append((column, _not_text(value)))
        result.flags = [flag for flag in FLAGS if flag in flags]
        return result

    def _join(self, text: str, column: str, row: RowResult, flags: set[str]) -> str | None:
        """The cell's translation, None when a piece failed; adds tokens, failures and flags."""
        parts = []
        truncated = False
        for piece in self._pieces[text]:
            if not piece.translate:
                parts.append(piece.text)
                continue
            result = self._results[piece.text]
            if result.error is not None:
                row.failures.append((column, result.error))
                return None
            parts.append(result.text)
            truncated |= result.finish_reason == "length"
            row.prompt_tokens += result.prompt_tokens
            row.output_tokens += result.output_tokens
        translation = whole_characters("".join(parts))
        config = self._config
        flags.update(flags_of(text, translation, config.source, config.target, truncated))
        return translation


def _not_text(value: Any) -> str:
    return f"not text but {type(value).__name__}"
