"""The recipe: one frozen dataclass per section, read from TOML, checked once, here."""

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from hala_trainer.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    path: str = ""  # Hugging Face directory or hub id
    init: str = "pretrained"  # "random": only config.json and the tokenizer are read
    seed: int = 0  # of the random weights
    compute: str = "bfloat16"  # what forward and backward run in; master weights are float32
    attention: str = "sdpa"  # or "eager": plain matmul and softmax, faster when rows are short


@dataclass(frozen=True)
class DataConfig:
    train: list[str] = field(default_factory=list)  # .jsonl or .parquet
    weights: list[float] = field(default_factory=list)  # passes over each source per epoch
    eval: list[str] = field(default_factory=list)
    seq_len: int = 1024  # tokens in a packed row
    seed: int = 0  # of the data order
    cache: str = ""  # tokenised data; default OUT/cache
    eval_documents: int = 1024  # at most, from the start of the eval sources


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 2e-5
    min_lr: float = 0.0  # where cosine and linear end
    schedule: str = "cosine"  # linear, constant
    warmup_steps: int = 100
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices only
    clip: float = 1.0  # global gradient norm; 0 = off


@dataclass(frozen=True)
class TrainConfig:
    out: str = ""  # output directory
    steps: int = 0  # either this
    epochs: float = 0.0  # or this
    rows: int = 8  # packed rows in one forward pass
    accumulate: int = 1  # forward passes per step
    compile: bool = False  # torch.compile each block
    threads: int = 0  # CPU threads; 0 = torch's choice


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = 500  # steps
    keep: int = 2
    final_dtype: str = "bfloat16"  # of final/


@dataclass(frozen=True)
class LogConfig:
    every: int = 10  # steps between progress lines and rows of metrics.jsonl
    eval_every: int = 500  # steps; 0 = only at the end


@dataclass(frozen=True)
class Recipe:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    log: LogConfig

    @property
    def out(self) -> Path:
        return Path(self.train.out)


SECTIONS = {f.name: f.type for f in fields(Recipe)}
# A run may be resumed with other values of these; any other change would make it another run.
FREE_ON_RESUME = ("checkpoint", "log", "train.steps", "train.epochs", "train.threads", "data.cache")


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(table, override)
    unknown = set(table) - set(SECTIONS)
    if unknown:
        raise InputError(_unknown("section", min(unknown), list(SECTIONS)))
    recipe = Recipe(**{name: _section(name, cls, table) for name, cls in SECTIONS.items()})
    _check(recipe)
    return recipe


def _apply_override(table: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise InputError(f"{override!r}: an override is section.key=value, e.g. optim.lr=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    table.setdefault(section, {})[name] = value


def _section(name: str, cls: type, table: dict) -> Any:
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise InputError(f"[{name}] must be a table of keys")
    kinds = {f.name: f.type for f in fields(cls)}
    for key in given:
        if key not in kinds:
            raise InputError(_unknown("key", key, list(kinds), prefix=f"{name}."))
    return cls(**{k: _typed(f"{name}.{k}", v, kinds[k]) for k, v in given.items()})


def _unknown(what: str, name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {what} {prefix}{name}; did you mean {prefix}{near[0]}?"


def _typed(key: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        values = value if isinstance(value, list) else [value]
        return [_typed(key, v, inner) for v in values]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{key} must be {kind.__name__}, not {json.dumps(value, default=str)}")
    return value


def _check(recipe: Recipe) -> None:
    m, d, o, t, c, g = (getattr(recipe, name) for name in SECTIONS)
    choices = {
        "model.init": (m.init, ("pretrained", "random")),
        "model.compute": (m.compute, ("bfloat16", "float32")),
        "model.attention": (m.attention, ("sdpa", "eager")),
        "optim.schedule": (o.schedule, ("cosine", "linear", "constant")),
        "checkpoint.final_dtype": (c.final_dtype, ("bfloat16", "float32", "float16")),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}, not {value!r}")
    rules = {
        "model.path is missing: a Hugging Face directory or hub id": m.path,
        "train.out is missing: the directory to write to": t.out,
        "data.train is missing: at least one .jsonl or .parquet file": d.train,
        "data.weights needs one positive number per file of data.train": not d.weights
        or (len(d.weights) == len(d.train) and min(d.weights) > 0),
        "data.seq_len must be at least 2": d.seq_len >= 2,
        "data.eval_documents must be at least 1": d.eval_documents >= 1,
        "give either train.steps or train.epochs": (t.steps > 0) != (t.epochs > 0),
        "train.rows and train.accumulate must be at least 1": min(t.rows, t.accumulate) >= 1,
        "train.threads must not be negative": t.threads >= 0,
        "optim.lr must be positive": o.lr > 0,
        "optim.min_lr must lie between 0 and optim.lr": 0 <= o.min_lr <= o.lr,
        "optim.betas must be two numbers in [0, 1)": len(o.betas) == 2
        and all(0 <= b < 1 for b in o.betas),
        "optim.warmup_steps, weight_decay and clip must not be negative": min(
            o.warmup_steps, o.weight_decay, o.clip
        )
        >= 0,
        "checkpoint.every and checkpoint.keep must be at least 1": min(c.every, c.keep) >= 1,
        "log.every must be at least 1": g.every >= 1,
        "log.eval_every must not be negative": g.eval_every >= 0,
    }
    for message, holds in rules.items():
        if not holds:
            raise InputError(message)


def to_toml(recipe: Recipe) -> str:
    """Values are strings, numbers, booleans and lists of them, which JSON spells as TOML does."""
    lines = []
    for section, values in dataclasses.asdict(recipe).items():
        lines.append(f"[{section}]")
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()]
        lines.append("")
    return "\n".join(lines)


def refuse_changed(recipe: Recipe, resolved: Path) -> None:
    """Refuse to resume a run whose recipe changed in a way that would make it another run."""
    old = tomllib.loads(resolved.read_text(encoding="utf-8"))
    new = tomllib.loads(to_toml(recipe))
    for section, values in new.items():
        for key, value in values.items():
            before = old.get(section, {}).get(key, value)
            name = f"{section}.{key}"
            if before != value and section not in FREE_ON_RESUME and name not in FREE_ON_RESUME:
                raise InputError(
                    f"{resolved.parent} holds a run with {name} = {before!r}, now {value!r}; "
                    "set it back to resume, or choose another train.out"
                )
