"""What a translation job is told."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.jobs.config import GenerationOptions, JobConfig, at_least
from hala_engine.rows.columns import chat_fault, text_fault
from hala_engine.translate.checks import CheckOptions
from hala_engine.translate.languages import check_code
from hala_engine.translate.prompts import resolve_template

SHIPPED_MODEL = "hala-mini-en-ar"


@dataclass(frozen=True, kw_only=True)
class TranslateConfig(JobConfig):
    """One translation job. See `hala-engine translate --help` for what each field means.

    columns: of text. messages_column: of chats, lists of {role, content} or {from, value}.
    """

    command: ClassVar[str] = "translate"

    model: str = SHIPPED_MODEL
    columns: tuple[str, ...] = ("text",)
    messages_column: str | None = None
    copied_roles: tuple[str, ...] = ("tool", "function", "function_call", "observation")
    source: str = "en"
    target: str = "ar"
    prompt: str = "teacher"
    chat_template: bool = True
    system: str | None = None
    max_segment_tokens: int | None = None
    drop_flagged: bool = False
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)

    @property
    def template(self) -> str:
        """The prompt's template with the languages filled in."""
        return resolve_template(self.prompt, self.source, self.target)

    @property
    def read_columns(self) -> tuple[str, ...]:
        chats = () if self.messages_column is None else (self.messages_column,)
        return self.columns + chats

    @property
    def added_columns(self) -> dict[str, str | None]:
        chats = self.messages_column
        return {
            self.output_column(name): name if name == chats else None for name in self.read_columns
        }

    def output_column(self, column: str) -> str:
        return f"{column}_{self.target}"

    def column_fault(self, column: str, kind: pa.DataType) -> str | None:
        return chat_fault(kind) if column == self.messages_column else text_fault(kind)

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"prompt": self.template}

    def validate(self) -> None:
        columns = self.read_columns
        if not columns or not all(columns):
            raise InputError("--columns needs at least one column's name")
        if len(set(columns)) < len(columns):
            raise InputError(f"--columns names a column twice: {','.join(columns)}")
        check_code(self.source, "--source")
        check_code(self.target, "--target")
        resolve_template(self.prompt, self.source, self.target)
        at_least("--max-segment-tokens", self.max_segment_tokens, 1)
        self.generation.validate()
        self.checks.validate()
        super().validate()
