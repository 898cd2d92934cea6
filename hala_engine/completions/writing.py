"""The output of a job: each row with its completions, and the list of those that failed."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hala_engine.completions.config import CompletionsConfig
from hala_engine.jobs.results import ROW_INFO
from hala_engine.jobs.storage import atomic_file
from hala_engine.jobs.writing import json_line

if TYPE_CHECKING:
    from hala_engine.engine import Output
    from hala_engine.logprobs import TokenLogprob

_DIGITS = 6  # of a log-probability, as written: float32 has no more


class Decoder(Protocol):
    """What this module needs of `Engine.tokenizer`."""

    def token_text(self, token_id: int) -> str: ...


@dataclass(eq=False)
class Row:
    """A row as it was read, the outputs of its samples as they come, or why it failed."""

    values: dict
    outputs: list["Output | None"]
    reason: str | None = None

    @property
    def is_done(self) -> bool:
        return self.reason is not None or None not in self.outputs


class Writer:
    """Writes rows to the job's output. It, and a file of failures if there are any, appear when
    the `with` block ends without an error."""

    def __init__(self, config: CompletionsConfig, tokenizer: Decoder):
        self._config, self._tokenizer = config, tokenizer
        self._texts: dict[int, str] = {}
        self._files = ExitStack()
        self.rows = self.failed_rows = 0

    def __enter__(self) -> "Writer":
        self._rows_file = self._files.enter_context(atomic_file(self._config.path))
        self._failures_file = None
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self._failures_file is None:
            self._config.failures.unlink(missing_ok=True)  # of a job that this one overwrites
        self._files.__exit__(*error)

    def write(self, row: Row) -> None:
        if row.reason is not None:
            self._write_failure(row.reason)
        column, info = self._config.result_column, self._info(row)
        self._rows_file.write(json_line(row.values | {column: self._texts_of(row), ROW_INFO: info}))
        self.rows += 1

    def _write_failure(self, reason: str) -> None:
        self.failed_rows += 1
        if self._failures_file is None:
            self._failures_file = self._files.enter_context(atomic_file(self._config.failures))
        failure = {"row": self.rows, "column": self._config.column, "reason": reason}
        self._failures_file.write(json_line(failure))

    def _texts_of(self, row: Row) -> str | list[str] | None:
        return None if row.reason is not None else self._one_or_all([o.text for o in row.outputs])

    def _info(self, row: Row) -> dict[str, Any]:
        """What stands under `_hala`."""
        finish = "finish_reason" if self._config.n == 1 else "finish_reasons"
        if row.reason is not None:
            return {"prompt_tokens": 0, "output_tokens": 0, finish: None, "error": row.reason}
        outputs = row.outputs
        info = {
            "prompt_tokens": outputs[0].prompt_tokens,
            "output_tokens": sum(len(output.token_ids) for output in outputs),
            finish: self._one_or_all([output.finish_reason for output in outputs]),
        }
        if self._config.logprobs is not None:
            logprobs = [[self._logprob(token) for token in o.logprobs] for o in outputs]
            info["logprobs"] = self._one_or_all(logprobs)
        return info

    def _one_or_all(self, values: list[Any]) -> Any:
        return values[0] if self._config.n == 1 else values

    def _logprob(self, logprob: "TokenLogprob") -> dict[str, Any]:
        top = [self._token(token, value) for token, value in logprob.top.items()]
        return self._token(logprob.token_id, logprob.logprob) | {"top": top}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self._tokenizer.token_text(token)
        return {"token": text, "token_id": token, "logprob": round(logprob, _DIGITS)}
