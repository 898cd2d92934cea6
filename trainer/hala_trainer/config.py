"""The recipe's sections, one frozen dataclass each, and the rules their values obey."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from hala_trainer.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    path: str = ""  # Hugging Face directory or hub id
    revision: str = ""  # of a hub id
    init: str = "pretrained"  # "random": only config.json and the tokenizer are read
    seed: int = 0  # of the random weights
    compute: str = "bfloat16"  # what the blocks run in; master weights are float32


@dataclass(frozen=True)
class SourceConfig:
    """An entry of data.train or data.eval, a table; a string there is one with this path.

    `translation.en` as a column is the field `en` of the objects in `translation`.
    """

    path: str = ""  # .jsonl, .parquet, or a folder of them
    weight: float = 1.0  # passes over it per epoch; of data.train only
    messages_column: str = "messages"
    prompt_column: str = "prompt"  # read, with response_column, where a row has no messages
    response_column: str = "response"
    prompt_template: str = "{prompt}"  # the user's turn made of the prompt column
    drop_flagged: bool = False  # leave out rows that hala-engine flagged or could not translate

    @property
    def name(self) -> str:
        """For people: the path, and the columns where they are not the usual ones."""
        columns = [f for f in fields(self) if f.name.endswith("_column")]
        chosen = [getattr(self, f.name) for f in columns if getattr(self, f.name) != f.default]
        return f"{self.path} ({', '.join(chosen)})" if chosen else self.path


@dataclass(frozen=True)
class DataConfig:
    train: list[SourceConfig] = field(default_factory=list)
    eval: list[SourceConfig] = field(default_factory=list)
    eval_documents: int = 1024  # at most, from the start of each eval source
    seq_len: int = 1024  # tokens in a packed row
    packing: str = "best_fit"  # "none": a document a row, padded to the longest beside it
    overlong: str = "refuse"  # a document longer than seq_len: refuse the run, or "drop" it
    seed: int = 0  # of the data order
    cache: str = ""  # tokenised data; default OUT/cache


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
    global_batch: int = 8  # packed rows of a step, over all processes and accumulation
    micro_batch: int = 8  # packed rows of one forward pass on one process
    recompute: str = "none"  # activations made again in the backward pass: selective, full
    compile: bool = False  # torch.compile each block
    reshard: bool = True  # free a block's gathered weights after its forward pass
    device: str = "auto"  # cpu, cuda
    threads: int = 0  # CPU threads; 0 = torch's choice
    on_bad_step: str = "stop"  # a loss or gradient that is NaN, infinite or spikes; or "skip"
    max_bad_steps: int = 10  # skipped in a row before the run stops after all
    spike: float = 0.0  # a loss above this many times the recent median is bad; 0 = off

    def reshards(self, world: int) -> bool:
        """Whether gathered weights are freed between uses; alone there is nothing to gather."""
        return self.reshard and world > 1


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = 500  # steps
    keep: int = 2
    final_dtype: str = "bfloat16"  # of final/
    asynchronous: bool = True  # written while training goes on


@dataclass(frozen=True)
class LogConfig:
    every: int = 10  # steps between progress lines and rows of metrics.jsonl
    eval_every: int = 500  # steps; 0 = only at the end
    samples: int = 0  # prompts of the eval data answered after each evaluation
    sample_tokens: int = 128  # at most, in each answer
    tensorboard: bool = True
    peak_tflops: float = 0.0  # of one device, for MFU; 0 = by the name of the GPU


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

    def accumulate(self, world: int) -> int:
        """Forward passes of a step on each of `world` processes."""
        t = self.train
        at_once = t.micro_batch * world
        passes, left = divmod(t.global_batch, at_once)
        if left:
            near = [str(at_once * n) for n in (passes, passes + 1) if n]
            raise InputError(
                f"train.global_batch = {t.global_batch} is no multiple of train.micro_batch = "
                f"{t.micro_batch} rows on {world} process{'es' if world > 1 else ''}; "
                f"{' or '.join(near)} would be"
            )
        return passes


SECTIONS = {f.name: f.type for f in fields(Recipe)}
# A run may be resumed with other values of these; any other change would make it another run.
FREE_ON_RESUME = (
    "checkpoint",
    "log",
    *(f"train.{key}" for key in ("steps", "epochs", "threads", "micro_batch", "recompute")),
    *(f"train.{key}" for key in ("reshard", "device", "on_bad_step", "max_bad_steps", "spike")),
    "train.compile",
    "data.cache",
    "data.eval",
    "data.eval_documents",
)
CHOICES = {
    "model.init": ("pretrained", "random"),
    "model.compute": ("bfloat16", "float32"),
    "data.packing": ("best_fit", "none"),
    "data.overlong": ("refuse", "drop"),
    "optim.schedule": ("cosine", "linear", "constant"),
    "train.recompute": ("none", "selective", "full"),
    "train.device": ("auto", "cpu", "cuda"),
    "train.on_bad_step": ("stop", "skip"),
    "checkpoint.final_dtype": ("bfloat16", "float32", "float16"),
}


def check(recipe: Recipe) -> None:
    """Raises InputError for the first rule that does not hold."""
    m, d, o, t, c, g = (getattr(recipe, name) for name in SECTIONS)
    for key, allowed in CHOICES.items():
        section, name = key.split(".")
        value = getattr(getattr(recipe, section), name)
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}, not {value!r}")
    rules = {
        "model.path is missing: a Hugging Face directory or hub id": m.path,
        "train.out is missing: the directory to write to": t.out,
        "data.train is missing: at least one .jsonl or .parquet file": d.train,
        "data.seq_len must be at least 2": d.seq_len >= 2,
        "data.eval_documents must be at least 1": d.eval_documents >= 1,
        "data.seed must not be negative": d.seed >= 0,
        "give either train.steps or train.epochs": (t.steps > 0) != (t.epochs > 0),
        "train.steps and train.epochs must not be negative": min(t.steps, t.epochs) >= 0,
        "train.global_batch and train.micro_batch must be at least 1": min(
            t.global_batch, t.micro_batch
        )
        >= 1,
        "train.threads must not be negative": t.threads >= 0,
        "train.max_bad_steps must be at least 1": t.max_bad_steps >= 1,
        "train.spike must be 0 (off) or above 1": t.spike == 0 or t.spike > 1,
        "optim.lr must be positive": o.lr > 0,
        "optim.eps must be positive": o.eps > 0,
        "optim.min_lr must lie between 0 and optim.lr": 0 <= o.min_lr <= o.lr,
        "optim.betas must be two numbers in [0, 1)": len(o.betas) == 2
        and all(0 <= b < 1 for b in o.betas),
        "optim.warmup_steps, weight_decay and clip must not be negative": min(
            o.warmup_steps, o.weight_decay, o.clip
        )
        >= 0,
        "checkpoint.every and checkpoint.keep must be at least 1": min(c.every, c.keep) >= 1,
        "log.every and log.sample_tokens must be at least 1": min(g.every, g.sample_tokens) >= 1,
        "log.eval_every, samples and peak_tflops must not be negative": min(
            g.eval_every, g.samples, g.peak_tflops
        )
        >= 0,
        "log.samples needs data.eval, whose prompts are answered": not g.samples or d.eval,
    }
    for key in ("train", "eval"):
        for n, source in enumerate(getattr(d, key), 1):
            rules |= _source_rules(f"data.{key}[{n}]", source, weighted=key == "train")
    for message, holds in rules.items():
        if not holds:
            raise InputError(message)


def _source_rules(entry: str, source: SourceConfig, weighted: bool) -> dict[str, object]:
    columns = (source.messages_column, source.prompt_column, source.response_column)
    return {
        f"{entry}.path is missing: a .jsonl or .parquet file, or a folder of them": source.path,
        f"{entry}.weight must be positive": source.weight > 0,
        f"{entry}.weight: evaluation takes each source once": weighted or source.weight == 1,
        f"{entry}.prompt_template must hold {{prompt}}": "{prompt}" in source.prompt_template,
        f"{entry} has a column without a name": all(all(c.split(".")) for c in columns),
    }
