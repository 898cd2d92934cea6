"""What a run is made of, and how it is put together from a recipe (or picked up again)."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from hala_trainer import checkpoint, config
from hala_trainer.checkpoint import Progress
from hala_trainer.config import Recipe
from hala_trainer.dataset import Documents, load_documents
from hala_trainer.errors import InputError
from hala_trainer.log import RunLog, clock
from hala_trainer.model import Trainee, load_model, load_tokenizer
from hala_trainer.optim import build_optimizer
from hala_trainer.packing import PackedRows


@dataclass
class Run:
    recipe: Recipe
    tokenizer: object
    trainee: Trainee
    optimizer: torch.optim.Optimizer
    rows: PackedRows
    eval_docs: Documents | None
    progress: Progress
    total_steps: int
    log: RunLog


def set_up(recipe: Recipe) -> Run:
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    transformers.utils.logging.disable_progress_bar()
    torch.set_flush_denormal(True)  # decayed optimizer moments would otherwise slow a CPU down
    out, resolved = recipe.out, recipe.out / "config.resolved.toml"
    if resolved.is_file():
        config.refuse_changed(recipe, resolved)
    tokenizer = load_tokenizer(recipe.model.path)
    trainee = load_model(recipe.model, recipe.train.compile)
    vocab = trainee.model.config.vocab_size
    if len(tokenizer) > vocab:
        raise InputError(
            f"{recipe.model.path}: the tokenizer has {len(tokenizer)} tokens, "
            f"but the model's vocabulary only {vocab}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror})") from None
    log = RunLog(out / "metrics.jsonl", max(checkpoint.steps_saved(out / "checkpoints"), default=0))
    sources, eval_docs = _load_data(recipe, tokenizer, log)
    pad = tokenizer.pad_token_id or 0
    d = recipe.data
    rows = PackedRows(sources, d.weights, d.seq_len, pad, d.seed)
    per_step = recipe.train.rows * recipe.train.accumulate
    total = recipe.train.steps
    packed = rows.rows_of_epoch(0)
    if not total:
        total = math.ceil(recipe.train.epochs * len(packed) / per_step)
    optimizer = build_optimizer(trainee.masters, recipe.optim)
    progress, rows.position = checkpoint.restore(out / "checkpoints", trainee, optimizer)
    resolved.write_text(config.to_toml(recipe), encoding="utf-8")
    used = sum(int(rows.docs.offsets[i + 1] - rows.docs.offsets[i]) for r in packed for i in r)
    size = sum(m.numel() for m in trainee.masters.values())
    log.say(
        f"{size / 1e6:.1f}M parameters; {len(rows.docs):,} documents in {len(packed):,} rows of "
        f"{d.seq_len} ({used / len(packed) / d.seq_len:.1%} full); {total:,} steps of up to "
        f"{per_step * d.seq_len:,} tokens, {total * per_step / len(packed):.2f} epochs"
    )
    if progress.step:
        log.say(f"resumed from step {progress.step}")
    return Run(recipe, tokenizer, trainee, optimizer, rows, eval_docs, progress, total, log)


def _load_data(recipe: Recipe, tokenizer, log: RunLog):
    d = recipe.data
    cache = Path(d.cache) if d.cache else recipe.out / "cache"

    def load(name: str, limit: int = 0) -> Documents:
        started = time.monotonic()
        docs = load_documents(Path(name), tokenizer, cache, limit)
        lengths = np.diff(docs.offsets)
        keep = lengths <= d.seq_len
        dropped = int((~keep).sum())
        log.say(
            f"{name}: {len(docs):,} documents, {int(lengths.sum()):,} tokens "
            f"({clock(time.monotonic() - started)})"
            + (f"; {dropped:,} longer than {d.seq_len} tokens left out" if dropped else "")
        )
        if dropped == len(docs):
            raise InputError(f"{name}: every document is longer than data.seq_len = {d.seq_len}")
        return docs.select(keep) if dropped else docs

    sources = [load(name) for name in d.train]
    held_out = [load(name, d.eval_documents) for name in d.eval]
    return sources, Documents.concat(held_out) if held_out else None
