"""What a completions job is: one frozen dataclass, checked once before anything is opened."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from hala_engine.errors import InputError
from hala_engine.jobs.config import EngineOptions, GenerationOptions
from hala_engine.sampling import SamplingParams

COMPLETION, COMPLETIONS = "completion", "completions"
ENDING = ".jsonl"
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class CompletionsConfig:
    """One job. See `hala-engine generate --help` for what each field means.

    column: of the prompts, or of the messages where `is_messages`.
    """

    inputs: tuple[str, ...]
    output: str
    model: str
    revision: str | None = None
    column: str = "prompt"
    is_messages: bool = False
    chat: bool = False
    system: str | None = None
    n: int = 1
    logprobs: int | None = None
    limit: int | None = None
    overwrite: bool = False
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def path(self) -> Path:
        return Path(self.output)

    @property
    def failures(self) -> Path:
        """Beside the output: which rows failed and why."""
        return self.path.with_suffix(f".failures{ENDING}")

    @property
    def result_column(self) -> str:
        return COMPLETION if self.n == 1 else COMPLETIONS

    @property
    def uses_template(self) -> bool:
        return self.is_messages or self.chat

    def params(self, seed: int | None) -> SamplingParams:
        """The engine's parameters for one request. Raises ValueError."""
        new_tokens = self.generation.max_new_tokens
        params = self.generation.params(MAX_NEW_TOKENS if new_tokens is None else new_tokens, seed)
        return replace(params, logprobs=self.logprobs)

    def validate(self) -> None:
        """Raise InputError for the first field that cannot be, before anything is opened."""
        try:
            self.params(self.generation.seed)
        except ValueError as error:
            raise InputError(str(error)) from None
        for flag, value in (("--n", self.n), ("--limit", self.limit)):
            if value is not None and value < 1:
                raise InputError(f"{flag} {value}: must be 1 or more")
        if self.n > 1 and self.generation.temperature == 0:
            raise InputError(
                f"--n {self.n} would give the same completion {self.n} times; "
                "give a --temperature above 0"
            )
        if self.chat and self.is_messages:
            raise InputError("--chat is for --prompt-column; messages are chat already")
        if self.system is not None and not self.uses_template:
            raise InputError("--system needs --chat or --messages-column")
        self._validate_output()

    def _validate_output(self) -> None:
        path = self.path
        if path.suffix != ENDING:
            raise InputError(f"--output {path}: JSON lines are written; end the name in {ENDING}")
        if not path.parent.is_dir():
            raise InputError(f"--output {path}: there is no directory {path.parent}")
        if path.exists() and not path.is_file():
            raise InputError(f"--output {path} is not a file")
        if path.exists() and not self.overwrite:
            raise InputError(f"{path} exists; give another --output, or --overwrite to replace it")
