"""What one measurement is: one frozen dataclass, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from hala_engine.benchmark.workload import Workload
from hala_engine.engine import EngineConfig
from hala_engine.errors import InputError
from hala_engine.models.decoder import DecoderConfig
from hala_engine.models.registry import model_layout
from hala_engine.weights.directory import SHIPPED_MODEL, read_json, resolve_model

BASELINES = ("transformers",)


@dataclass(frozen=True)
class BenchConfig:
    """See `hala-engine bench --help` for what each field means. One of `model` and `config`;
    neither: the shipped model. Raises InputError for what cannot be run."""

    workload: Workload
    model: str | None = None
    revision: str | None = None
    config: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    repeats: int = 3
    baseline: str | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.config is not None:
            raise InputError("give --model or --config, not both")
        if self.repeats < 1:
            raise InputError(f"--repeats {self.repeats}: must be 1 or more")
        if self.baseline is not None and self.baseline not in BASELINES:
            raise InputError(f"--baseline {self.baseline!r}: use {', '.join(BASELINES)}")

    @property
    def random_weights(self) -> bool:
        return self.config is not None

    @property
    def name(self) -> str:
        """Of the model, as it was given."""
        return self.config or self.model or SHIPPED_MODEL

    @cached_property
    def path(self) -> Path:
        """The model directory, or with random weights the config.json. Raises InputError."""
        if self.config is None:
            return resolve_model(self.name, self.revision)
        path = Path(self.config)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"--config {self.config}: there is no file {path}")
        return path

    @cached_property
    def raw(self) -> dict:
        """The model's config.json. Raises InputError."""
        return read_json(self.path if self.random_weights else self.path / "config.json")

    @cached_property
    def _model_config(self) -> DecoderConfig:
        """Of the model without weights. Raises InputError."""
        return model_layout(self.raw, self.path).model.config

    @property
    def vocab_size(self) -> int:
        return self._model_config.vocab_size

    @property
    def batch_size(self) -> int:
        """Sequences that run at once, the baseline's too."""
        return min(self.engine.max_batch_size, self.workload.requests)

    def engine_config(self) -> EngineConfig:
        """For just this workload: the cache need not hold longer sequences. Raises InputError where
        the model does not."""
        longest = self.workload.longest
        context = self._model_config.max_positions
        if longest > context:
            raise InputError(
                f"--prompt-len and --output-len ask for up to {longest} tokens, the context of "
                f"{self.name} is {context}"
            )
        return replace(self.engine, max_model_len=longest)
