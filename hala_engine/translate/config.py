"""What a translation job is: one frozen dataclass, checked once before anything is opened."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hala_engine.errors import InputError
from hala_engine.sampling import SamplingParams
from hala_engine.translate.languages import check_code
from hala_engine.translate.prompts import resolve_template

SHIPPED_MODEL = "hala-mini-en-ar"
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


@dataclass(frozen=True)
class TranslateConfig:
    """One translation job. See `hala-engine translate --help` for what each field means."""

    inputs: tuple[str, ...]
    output: str
    model: str = SHIPPED_MODEL
    revision: str | None = None
    columns: tuple[str, ...] = ("text",)
    source: str = "en"
    target: str = "ar"
    prompt: str = "teacher"
    chat_template: bool = True
    system: str | None = None
    max_segment_tokens: int | None = None
    format: str | None = None
    shard_rows: int = 10_000
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    drop_flagged: bool = False
    max_failures: int | None = None
    overwrite: bool = False
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def template(self) -> str:
        """The prompt's template with the languages filled in."""
        return resolve_template(self.prompt, self.source, self.target)

    def output_column(self, column: str) -> str:
        return f"{column}_{self.target}"

    def identity(self) -> dict[str, Any]:
        """What decides the output's bytes, apart from the model's and the inputs' content."""
        flat: dict[str, Any] = {}
        for name, value in asdict(replace(self, prompt=self.template)).items():
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
        if not self.columns or not all(self.columns):
            raise InputError("--columns needs at least one column's name")
        if len(set(self.columns)) < len(self.columns):
            raise InputError(f"--columns names a column twice: {','.join(self.columns)}")
        check_code(self.source, "--source")
        check_code(self.target, "--target")
        resolve_template(self.prompt, self.source, self.target)
        if self.format is not None and self.format not in OUTPUT_FORMATS:
            raise InputError(f"--format {self.format!r}: use {' or '.join(OUTPUT_FORMATS)}")
        _at_least("--shard-rows", self.shard_rows, 1)
        _at_least("--limit", self.limit, 1)
        _at_least("--max-failures", self.max_failures, 0)
        _at_least("--max-segment-tokens", self.max_segment_tokens, 1)
        index, of = self.shard
        if not 1 <= index <= of:
            raise InputError(f"--shard {index}/{of}: give I/N with I from 1 to N, such as 1/{of}")
        self._validate_generation()
        self._validate_engine()
        output = Path(self.output)
        if output.exists() and not output.is_dir():
            raise InputError(f"--output {output} is a file; give a directory")

    def _validate_generation(self) -> None:
        _at_least("--max-new-tokens", self.generation.max_new_tokens, 1)
        try:
            self.generation.params(self.generation.max_new_tokens or 1, self.generation.seed)
        except ValueError as error:
            raise InputError(str(error)) from None

    def _validate_engine(self) -> None:
        _one_of("--device", self.engine.device, ("auto", "cpu", "cuda"))
        _one_of("--dtype", self.engine.dtype, ("auto", "float32", "bfloat16"))
        _one_of("--kv-cache-dtype", self.engine.kv_cache_dtype, ("auto", "fp8"))
        _at_least("--max-batch-size", self.engine.max_batch_size, 1)
        _at_least("--max-batched-tokens", self.engine.max_batched_tokens, 1)
        share = self.engine.memory_utilization
        if share is not None and not 0 < share <= 1:
            raise InputError(f"--memory-utilization {share:g}: give a share above 0 and up to 1")


def _at_least(flag: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise InputError(f"{flag} {value}: must be {least} or more")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{flag} {value!r}: use {', '.join(choices)}")
