"""One shard's rows through the engine: mask, cut, prompt, translate, join, check."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hala_engine.jobs.answers import Answer, Answers
from hala_engine.jobs.blocks import Asker, Request
from hala_engine.jobs.failures import FailedRows
from hala_engine.jobs.progress import Progress
from hala_engine.jobs.results import RowResult
from hala_engine.rows.characters import whole_characters
from hala_engine.rows.records import Records
from hala_engine.sampling import SamplingParams
from hala_engine.translate.budget import Budget
from hala_engine.translate.chats import NoChat, chat_texts, with_chat_texts
from hala_engine.translate.checks import FLAGS, flags_of
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.documents import Document
from hala_engine.translate.masking import mask, with_marks
from hala_engine.translate.prompts import Prompter
from hala_engine.translate.segment import cut, trim

if TYPE_CHECKING:
    from hala_engine.engine import Engine


class Translator:
    """What all shards of a job share: engine, prompt, token budget."""

    def __init__(self, engine: "Engine", config: TranslateConfig, context: int):
        self.config = config
        self.asker = Asker(engine, greedy=config.generation.temperature == 0)
        self._greedy_params: dict[int, SamplingParams] = {}
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

    def work(
        self, records: Records, answers: Answers, progress: Progress, failed: FailedRows
    ) -> list[RowResult]:
        """One result a row."""
        shard = _Shard(self, records, answers, failed)
        requests = shard.first_requests()
        while True:
            for question, answer in self.asker.ask(requests, answers):
                shard.take(question, answer)
                progress.update(shard.rows_done, self.asker.engine.stats)
            if not shard.is_unfinished:
                return [shard.row(index) for index in range(len(records))]
            requests = shard.finer_requests()

    def document(self, text: str) -> tuple[Document, list[int] | None]:
        """The text's way, and its prompt when it needs a single one."""
        masked = mask(text)
        pieces = trim(masked.text)
        core = next((piece.text for piece in pieces if piece.translate), None)
        if core is None:
            return Document(masked, pieces), None
        ids = self.prompter.ids(with_marks(core))
        if len(ids) - self.budget.overhead > self.budget.segment:
            ids, pieces = None, cut(masked.text, self.budget.segment, self._count)
        return Document(masked, pieces), ids

    def _count(self, texts: list[str]) -> list[int]:
        return self.prompter.count([with_marks(text) for text in texts])

    def request(self, question: str, ids: list[int] | None) -> Request:
        """A piece's request; its seed comes from its text, not from its place among others."""
        if ids is None:
            ids = self.prompter.ids(question)
        return Request(question, ids, self._params(self.budget.new_tokens(len(ids)), question))

    def _params(self, new_tokens: int, question: str) -> SamplingParams:
        options = self.config.generation
        if options.temperature > 0:
            digest = hashlib.sha256(f"{options.seed}\n{question}".encode("utf-8", "surrogatepass"))
            return options.params(new_tokens, int.from_bytes(digest.digest()[:7]))
        if new_tokens not in self._greedy_params:
            self._greedy_params[new_tokens] = options.params(new_tokens, None)
        return self._greedy_params[new_tokens]


class _Shard:
    """The state of one shard: which rows wait for which texts, and which texts for which answers.

    Questions come in rounds. In the first, every different text is asked about; in each further one
    the finer pieces of texts that an answer had spoilt. Their order is the rows', whatever order
    answers come in, so that a resumed round is the same.
    """

    def __init__(
        self,
        translator: Translator,
        records: Records,
        answers: Answers,
        failed: FailedRows,
    ):
        self._translator = translator
        self._config = config = translator.config
        self._columns = {name: records.column(name) for name in config.read_columns}
        self._rows = len(records)
        self._kept = answers
        self._failed = failed
        self._documents: dict[str, Document] = {}
        self._rows_of: dict[Document, list[int]] = {}  # unfinished text -> rows that need it
        self._missing: dict[int, int] = {}  # row in work -> texts that it still needs
        self._answers: dict[str, Answer] = {}
        self._waiting: dict[str, list[Document]] = {}  # question in work -> texts that need it
        self._unanswered: dict[Document, int] = {}  # text in work -> answers that it still needs
        self.rows_done = 0

    def first_requests(self) -> Iterator[Request]:
        """A request for every different piece that has no answer yet, in the rows' order."""
        for row in range(self._rows):
            # One more than its texts, so that it is not done before all have been asked for.
            self._missing[row] = 1
            for column, values in self._columns.items():
                try:
                    texts = texts_of(values[row], column, self._config)
                except NoChat as error:
                    self._failed.add(row, column, str(error))
                    continue
                for text in texts:
                    yield from self._text_requests(row, text)
            self._supply(row)

    def _text_requests(self, row: int, text: str) -> list[Request]:
        document = self._documents.get(text)
        ids = None
        if is_new := document is None:
            document, ids = self._translator.document(text)
            self._documents[text] = document
            if document.questions:
                self._rows_of[document] = []
        if document in self._rows_of:
            self._rows_of[document].append(row)
            self._missing[row] += 1
        if document.error is not None:
            self._failed.add(row, "", document.error)
        return self._document_requests(document, ids) if is_new else []

    def _document_requests(self, document: Document, ids: list[int] | None) -> list[Request]:
        """What is to be asked for a text, beyond what has been asked or answered before."""
        requests: list[Request] = []
        questions = document.questions
        if not questions:
            return requests
        self._unanswered[document] = len(questions)
        for question in questions:
            if question in self._answers:
                self._answered(document)
            elif question in self._waiting:
                self._waiting[question].append(document)
            elif kept := self._kept.get(question):
                self._answers[question] = kept
                self._answered(document)
            else:
                self._waiting[question] = [document]
                requests.append(self._translator.request(question, ids))
        return requests

    def take(self, question: str, answer: Answer) -> None:
        """Note one of the engine's answers."""
        self._answers[question] = answer
        for document in self._waiting.pop(question):
            self._answered(document)

    def _answered(self, document: Document) -> None:
        """One question of the text has its answer; with the last, the text may be finished."""
        self._unanswered[document] -= 1
        if self._unanswered[document]:
            return
        del self._unanswered[document]
        document.settle(self._answers.__getitem__)
        if document.error is not None:
            for row in self._rows_of[document]:
                self._failed.add(row, "", document.error)
        if not document.questions:
            for row in self._rows_of.pop(document):
                self._supply(row)

    def _supply(self, row: int) -> None:
        """One thing that the row needed is there."""
        self._missing[row] -= 1
        if not self._missing[row]:
            del self._missing[row]
            self.rows_done += 1

    @property
    def is_unfinished(self) -> bool:
        """Whether texts are left that have finer questions."""
        return bool(self._rows_of)

    def finer_requests(self) -> Iterator[Request]:
        """What is still to be asked about texts that an answer had spoilt, in the rows' order."""
        for document in list(self._rows_of):
            yield from self._document_requests(document, None)

    def row(self, index: int) -> RowResult:
        """The finished row; all of the shard's answers must be in."""
        row = _Row(self._config)
        for column, values in self._columns.items():
            row.add(column, values[index], self._documents)
        return row.result()


class _Row:
    """One row's result, put together cell by cell."""

    def __init__(self, config: TranslateConfig):
        self._config = config
        self._result = RowResult()
        self._flags: set[str] = set()
        self._is_blank = True

    def add(self, column: str, value: Any, documents: dict[str, Document]) -> None:
        """The translated cell, None when it failed; with its tokens, failures and flags."""
        result, name = self._result, self._config.output_column(column)
        result.values[name] = None
        if value is None:
            return
        try:
            texts = texts_of(value, column, self._config)
        except NoChat as error:
            result.failures.append((column, str(error)))
            return
        translations = []
        for text in texts:
            document = documents[text]
            result.prompt_tokens += document.prompt_tokens
            result.output_tokens += document.output_tokens
            if document.error is not None:
                result.failures.append((column, document.error))
                return
            translations.append(self._finished(document))
        if column == self._config.messages_column:
            copied = self._config.copied_roles
            result.values[name] = with_chat_texts(value, copied, translations)
        else:
            [result.values[name]] = translations

    def _finished(self, document: Document) -> str:
        """The text's translation; notes what the checks find."""
        config = self._config
        done = document.translation()
        if done.source and not done.source.isspace():
            self._is_blank = False
            found = flags_of(
                done.source,
                done.with_holes,
                config.source,
                config.target,
                truncated=done.truncated,
                placeholder_lost=done.placeholder_lost,
                structure_lost=done.structure_lost,
                options=config.checks,
            )
            self._flags.update(found)
        return whole_characters(done.text)

    def result(self) -> RowResult:
        result = self._result
        # One blank cell among others is no fault: many datasets have an input for some rows only.
        if self._is_blank and not result.failures:
            self._flags.add("empty")
        result.flags = [flag for flag in FLAGS if flag in self._flags]
        if self._config.drop_flagged and (result.flags or result.failures):
            result.folder = None
        return result


def texts_of(value: Any, column: str, config: TranslateConfig) -> list[str]:
    """What is to be translated in a cell. Raises NoChat."""
    if value is None:
        return []
    if column == config.messages_column:
        return chat_texts(value, config.copied_roles)
    if isinstance(value, str):
        return [value]
    raise NoChat(f"not text but {type(value).__name__}")
