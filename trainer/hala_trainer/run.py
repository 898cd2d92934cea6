"""What a run is made of, and how it is put together from a recipe (or picked up again)."""

import fcntl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
import transformers

from hala_trainer.config import Recipe
from hala_trainer.data.documents import Corpus, load_corpus
from hala_trainer.data.order import DataPosition, PackedRows
from hala_trainer.distributed import Processes
from hala_trainer.errors import InputError
from hala_trainer.flops import ModelFlops, model_flops, peak_flops
from hala_trainer.health import Health
from hala_trainer.log import Meter, RunLog
from hala_trainer.model import loading
from hala_trainer.model.packed import PackedModel
from hala_trainer.model.sharding import shard
from hala_trainer.optim import build_optimizer
from hala_trainer.recipe import refuse_changed, to_toml
from hala_trainer.saving.checkpoint import Checkpoints, State
from hala_trainer.saving.export import base_generation


@dataclass
class Progress:
    """Tokens are real ones: padding is never counted."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    recipe: Recipe
    processes: Processes
    tokenizer: Any
    generation: Any  # the GenerationConfig of the model that training began with, or None
    model: PackedModel  # sharded
    parameters: dict[str, torch.Tensor]  # its float32 masters, DTensors
    optimizer: torch.optim.Optimizer
    rows: PackedRows
    held_out: Corpus | None
    progress: Progress
    health: Health
    total_steps: int
    checkpoints: Checkpoints
    flops: ModelFlops
    meter: Meter
    log: RunLog
    lock: IO | None  # rank 0's: no other run writes to the same directory meanwhile

    def close(self) -> None:
        self.log.close()
        if self.lock:
            self.lock.close()

    def state(self) -> State:
        """All that an exact resume needs, besides the recipe."""
        scalars = {
            "progress": asdict(self.progress),
            "data": asdict(self.rows.position),
            "documents": self.rows.corpus.fingerprint(),
            "health": self.health.state(),
        }
        return State(self.parameters, self.optimizer, scalars)

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        state = self.state()
        documents = state.scalars["documents"]
        if self.checkpoints.restore(state):
            if state.scalars["documents"] != documents:
                raise InputError(
                    f"{self.recipe.out}: its checkpoints are of other data: the documents of "
                    "data.train have changed since; put them back, or choose another train.out"
                )
            self.progress = Progress(**state.scalars["progress"])
            self.rows.position = DataPosition(**state.scalars["data"])
            self.health.restore(state.scalars["health"])


def set_up(recipe: Recipe, processes: Processes) -> Run:
    """Everything that can be wrong with the input is found here. Raises InputError."""
    r, p = recipe, processes
    if r.train.threads:
        torch.set_num_threads(r.train.threads)
    transformers.utils.logging.set_verbosity_error()
    passes = r.accumulate(p.world)
    resolved = r.out / "config.resolved.toml"
    if resolved.is_file():
        refuse_changed(r, resolved)
    source = p.first(lambda: loading.find_model(r.model))
    config, tokenizer = loading.load_config(source), loading.load_tokenizer(source)
    loading.check_vocabulary(source, tokenizer, config)
    generation = base_generation(source)
    try:
        r.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{r.out}: cannot write there ({error.strerror})") from None
    lock = p.first(lambda: _lock(r.out) if p.rank == 0 else None)
    checkpoints = Checkpoints(r.out / "checkpoints", r.checkpoint.keep, r.checkpoint.asynchronous)
    resumed = max(checkpoints.steps(), default=0)
    log = RunLog(r.out, resumed, tensorboard=r.log.tensorboard, main=p.rank == 0)
    corpus, held_out = p.first(lambda: _load_data(r, tokenizer, log))
    rows = PackedRows(
        corpus,
        [source.weight for source in r.data.train],
        r.data.seq_len,
        tokenizer.pad_token_id or 0,
        r.data.seed,
        r.data.packing,
    )
    total = r.train.steps or rows.steps(r.train.epochs, r.train.global_batch)

    model = loading.build(config, r.model.compute)
    flops = model_flops(model)
    shard(model, p.mesh, r.train)
    loading.fill(model, source, r.model, p.device)
    model.train()
    parameters = dict(model.named_parameters())
    name = torch.cuda.get_device_name(p.device) if p.device.type == "cuda" else "cpu"
    peak = r.log.peak_tflops * 1e12 or peak_flops(name)
    run = Run(
        recipe=r,
        processes=p,
        tokenizer=tokenizer,
        generation=generation,
        model=model,
        parameters=parameters,
        optimizer=build_optimizer(parameters, r.optim),
        rows=rows,
        held_out=held_out,
        progress=Progress(),
        health=Health(r.train),
        total_steps=total,
        checkpoints=checkpoints,
        flops=flops,
        meter=Meter(p.world, p.device, peak),
        log=log,
        lock=lock,
    )
    run.restore()
    if p.rank == 0:
        whole = resolved.with_suffix(".tmp")  # a kill must not leave half of what resuming reads
        whole.write_text(to_toml(r), encoding="utf-8")
        whole.replace(resolved)
    _say_plan(run, passes)
    return run


def _lock(out: Path) -> IO:
    """Held until it is closed, or the process ends."""
    try:
        file = (out / ".lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{out}: another hala-train is at work there; wait for it, or choose another train.out"
        ) from None
    except OSError as error:
        raise InputError(f"{out}: cannot write or lock there ({error.strerror})") from None
    return file


def _load_data(r: Recipe, tokenizer, log: RunLog) -> tuple[Corpus, Corpus | None]:
    cache = Path(r.data.cache) if r.data.cache else r.out / "cache"
    corpus = load_corpus(r.data.train, tokenizer, r.data, cache, tell=log.say)
    held_out = None
    if r.data.eval:
        held_out = load_corpus(
            r.data.eval, tokenizer, r.data, cache, r.data.eval_documents, tell=log.say
        )
    for source in (*corpus.sources, *(held_out.sources if held_out else ())):
        log.say(
            f"{source.name}: {source.documents:,} documents, {source.tokens:,} tokens"
            + (f"; {source.dropped:,} over {r.data.seq_len} left out" if source.dropped else "")
            + (f"; {source.flagged:,} flagged left out" if source.flagged else "")
        )
    return corpus, held_out


def _say_plan(run: Run, passes: int) -> None:
    r, p = run.recipe, run.processes
    packed, size = run.rows.rows_of_epoch(0), sum(x.numel() for x in run.parameters.values())
    used = int(run.rows.corpus.lengths[packed.documents].sum())
    per_step = r.train.global_batch
    filled = f" ({used / len(packed) / r.data.seq_len:.1%} full)"
    run.log.say(
        f"{size / 1e6:,.1f}M parameters on {p.world} x {p.device.type}; {len(packed):,} rows of up "
        f"to {r.data.seq_len}{filled} an epoch; {run.total_steps:,} steps of {per_step} rows "
        f"({p.world} x {passes} x {r.train.micro_batch}), "
        f"{run.total_steps * per_step / len(packed):.2f} epochs"
    )
    if run.progress.step:
        run.log.say(f"resumed from step {run.progress.step:,}")
