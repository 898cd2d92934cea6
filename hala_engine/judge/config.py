"""What a judge's job is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.jobs.config import JobConfig
from hala_engine.judge.instruction import make_template
from hala_engine.rows.columns import text_fault
from hala_engine.translate.languages import check_code

ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(JobConfig):
    """One judge's job. See `hala-engine judge --help` for what each field means.

    source_column, target_column: of text; `translation.en` is the field `en` of a column of
    records. verdicts: the words for yes and no. threshold: a pair is accepted when P(yes) / (P(yes)
    + P(no)) is at least this.
    """

    command: ClassVar[str] = "judge"
    folders: ClassVar[tuple[str, ...]] = (ACCEPTED, REJECTED)
    scores: ClassVar[tuple[str, ...]] = ("score", "accept_logprob", "reject_logprob")
    adds_to_info: ClassVar[bool] = True

    source_column: str
    target_column: str
    source: str = "en"
    target: str = "ar"
    instruction: str | None = None
    verdicts: tuple[str, str] = ("accept", "reject")
    threshold: float = 0.5
    chat_template: bool = True

    @property
    def template(self) -> str:
        """The whole prompt, with `{source}` and `{target}` where the pair's texts go."""
        return make_template(self.instruction, self.source, self.target, self.verdicts)

    @property
    def read_columns(self) -> tuple[str, ...]:
        names = (self.source_column, self.target_column)
        return tuple(dict.fromkeys(name.partition(".")[0] for name in names))

    def column_fault(self, column: str, kind: pa.DataType) -> str | None:
        for name in (self.source_column, self.target_column):
            head, *fields = name.split(".")
            if head == column and (fault := _field_fault(fields, kind)):
                return fault
        return None

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"instruction": self.template}

    def validate(self) -> None:
        for flag, name in (
            ("--source-column", self.source_column),
            ("--target-column", self.target_column),
        ):
            if not all(name.split(".")):
                raise InputError(f"{flag} {name!r}: give a column's name")
        if self.source_column == self.target_column:
            raise InputError(
                f"--source-column and --target-column are both {self.source_column!r}; "
                "a pair has two texts"
            )
        check_code(self.source, "--source")
        check_code(self.target, "--target")
        _check_verdicts(self.verdicts)
        make_template(self.instruction, self.source, self.target, self.verdicts)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g}: give a share from 0 to 1")
        super().validate()


def _field_fault(fields: Sequence[str], kind: pa.DataType) -> str | None:
    for field in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            return f"is {kind}, without a field {field!r}"
        kind = kind.field(field).type
    return text_fault(kind)


def _check_verdicts(verdicts: tuple[str, ...]) -> None:
    if len(verdicts) != 2 or not all(word.strip() for word in verdicts):
        raise InputError(f"--verdicts {','.join(verdicts)}: give two words, such as accept,reject")
