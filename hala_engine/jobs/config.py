"""What every dataset job is told: one frozen dataclass, checked once before anything is opened."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.rows.columns import text_fault
from hala_engine.sampling import SamplingParams

OUTPUT_FORMATS = ("jsonl", "parquet")

# Where and how fast a job runs, and when it gives up, is not what it produces.
_NOT_IDENTITY = (
    "inputs",
    "output",
    "overwrite",
    "max_failures",
    "model",
    "revision",
    "engine.max_batch_size",
    "engine.max_batched_tokens",
    "engine.memory_utilization",
    "engine.prefix_caching",
)


@dataclass(frozen=True)
class GenerationOptions:
    """How the model writes. `max_new_tokens` None: from the length of each source text."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def params(self, max_new_tokens: int, seed: int | None) -> SamplingParams:
        """The engine's parameters for one request."""
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
            stop=self.stop,
        )

    def validate(self) -> None:
        at_least("--max-new-tokens", self.max_new_tokens, 1)
        try:
            self.params(self.max_new_tokens or 1, self.seed)
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise InputError(f"--{name.replace('_', '-')} {rest}") from None


@dataclass(frozen=True)
class EngineOptions:
    """How the engine runs. None leaves the engine's own default."""

    device: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    max_batch_size: int | None = None
    max_batched_tokens: int | None = None
    memory_utilization: float | None = None
    deterministic: bool = False
    prefix_caching: bool = True

    def given(self) -> dict[str, Any]:
        """The options that have a value, by the names of `EngineConfig`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def validate(self) -> None:
        _one_of("--device", self.device, ("auto", "cpu", "cuda"))
        _one_of("--dtype", self.dtype, ("auto", "float32", "bfloat16"))
        _one_of("--kv-cache-dtype", self.kv_cache_dtype, ("auto", "fp8"))
        at_least("--max-batch-size", self.max_batch_size, 1)
        at_least("--max-batched-tokens", self.max_batched_tokens, 1)
        share = self.memory_utilization
        if share is not None and not 0 < share <= 1:
            raise InputError(f"--memory-utilization {share:g}: give a share above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What all jobs have in common; each kind of job adds its own fields.

    command: its name on the command line. folders: of the output, where rows may go.
    scores: names of the numbers that it adds to a row's `_hala`. adds_to_info: the input may have
    a `_hala`, of an earlier job, and keeps what is in it.
    """

    command: ClassVar[str]
    folders: ClassVar[tuple[str, ...]] = ("data",)
    scores: ClassVar[tuple[str, ...]] = ()
    adds_to_info: ClassVar[bool] = False

    inputs: tuple[str, ...]
    output: str
    model: str
    revision: str | None = None
    format: str | None = None
    shard_rows: int = 10_000
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    max_failures: int | None = None
    overwrite: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that the input must have."""
        raise NotImplementedError

    @property
    def added_columns(self) -> dict[str, str | None]:
        """The columns that the output has besides, each with the input's column whose type it has;
        None for text."""
        return {}

    def column_fault(self, column: str, kind: pa.DataType) -> str | None:
        """Why a column of `read_columns` cannot be of this type; None if it can."""
        return text_fault(kind)

    def recorded(self) -> dict[str, Any]:
        """All fields, as the manifest keeps them."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What decides the output's bytes, apart from the model's and the inputs' content."""
        flat: dict[str, Any] = {"command": self.command}
        for name, value in self.recorded().items():
            if isinstance(value, dict):
                flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
            else:
                flat[name] = value
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in flat.items()
            if name not in _NOT_IDENTITY
        }

    def validate(self) -> None:
        """Raise InputError for the first field that cannot be, before anything is opened."""
        if not self.inputs:
            raise InputError("no INPUT given")
        if self.format is not None and self.format not in OUTPUT_FORMATS:
            raise InputError(f"--format {self.format!r}: use {' or '.join(OUTPUT_FORMATS)}")
        at_least("--shard-rows", self.shard_rows, 1)
        at_least("--limit", self.limit, 1)
        at_least("--max-failures", self.max_failures, 0)
        index, of = self.shard
        if not 1 <= index <= of:
            raise InputError(f"--shard {index}/{of}: give I/N with I from 1 to N, such as 1/{of}")
        self.engine.validate()
        output = Path(self.output)
        if output.exists() and not output.is_dir():
            raise InputError(f"--output {output} is a file; give a directory")


def at_least(flag: str, value: int | None, least: int) -> None:
    """Raise InputError for a value below `least`."""
    if value is not None and value < least:
        raise InputError(f"{flag} {value}: must be {least} or more")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{flag} {value!r}: use {', '.join(choices)}")
