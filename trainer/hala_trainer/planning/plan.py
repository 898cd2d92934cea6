"""`hala-train --dry-run`: what a run will be, from config.json, the tokenizer and some rows."""

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hala_trainer.config import ModelConfig, OptimConfig, Recipe
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.errors import InputError
from hala_trainer.flops import layer_types, model_flops, peak_flops
from hala_trainer.model import loading
from hala_trainer.model.packed import PackedModel
from hala_trainer.planning.memory import Estimate, estimate
from hala_trainer.planning.survey import Epoch, Source, epoch, survey

ASSUMED_GPU = ("80 GB GPU", 80_000_000_000)
ASSUMED_SHARE = 0.4  # of the peak, for the hours
ASSUMED_PEAK = ("H100", 989e12)
HUB_FILES = ["*.json", "*.jinja", "tokenizer.model"]
WIDTH = 100  # of what is printed where there is no terminal


@dataclass(frozen=True)
class Plan:
    lines: list[tuple[str, str]]  # what, and what of it
    memory: Estimate
    verdict: str
    problems: list[str]  # of the data, each a line; training would refuse them


def print_plan(recipe: Recipe, world: int) -> None:
    """On stdout. Raises InputError, at the end, where training would refuse the data."""
    from rich.console import Console
    from rich.table import Table

    found = plan(recipe, world)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in found.lines:
        table.add_row(name, text)
    console.print(table, highlight=False, markup=False)
    sizes = Table()
    sizes.add_column("memory of one GPU, when it is fullest", no_wrap=True)
    sizes.add_column("GB", justify="right")
    for name, size in found.memory.parts.items():
        if size:
            sizes.add_row(name, f"{size / 1e9:.2f}")
    sizes.add_section()
    sizes.add_row(f"in {found.memory.moment}", f"{found.memory.total / 1e9:.2f}")
    console.print()
    console.print(sizes, highlight=False)
    console.print(found.verdict, highlight=False, markup=False)
    if found.problems:
        raise InputError(found.problems[0])


def plan(recipe: Recipe, world: int) -> Plan:
    """Reads no weights and tokenises a sample. Raises InputError for an unusable model."""
    passes = recipe.accumulate(world)
    path = find_model(recipe.model)
    config, tokenizer = loading.load_config(path), loading.load_tokenizer(path)
    loading.check_vocabulary(path, tokenizer, config)
    renderer = ChatRenderer(tokenizer)
    train = [survey(source, renderer, recipe.data) for source in recipe.data.train]
    held_out = [survey(source, renderer, recipe.data) for source in recipe.data.eval]
    once = epoch(train, recipe.data)
    model = loading.build(config, recipe.model.compute)
    memory = estimate(model, recipe, world)
    total = steps(recipe, once)
    lines = [
        ("model", describe_model(recipe.model, model)),
        *(("data.train", describe_source(source)) for source in train),
        *(("data.eval", describe_source(source)) for source in held_out),
        ("rows", describe_rows(recipe, once)),
        ("steps", describe_steps(recipe, world, passes, total, once)),
        ("learning rate", describe_rate(recipe.optim, total)),
        ("checkpoints", describe_checkpoints(recipe, model)),
        ("work", describe_work(recipe, world, model, total, once)),
    ]
    problems = [source.problem for source in (*train, *held_out) if source.problem]
    return Plan(lines, memory, verdict(model, recipe, world, memory), problems)


def find_model(config: ModelConfig) -> Path:
    """The directory of config.json and the tokenizer; of a hub model those alone are fetched."""
    if Path(config.path).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", config.path):
        return loading.find_model(config)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            config.path, revision=config.revision or None, allow_patterns=HUB_FILES
        )
    except Exception as error:  # the hub's own, the network's, and those of bad names
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{config.path} is no local directory and could not be had from the hub: {reason}"
        ) from None
    return Path(folder)


def steps(recipe: Recipe, once: Epoch | None) -> int | None:
    """Of the whole run; None where they follow from data that could not be read."""
    t = recipe.train
    if t.steps or once is None:
        return t.steps or None
    whole, part = divmod(t.epochs, 1)
    return int(whole) * math.ceil(once.rows / t.global_batch) + math.ceil(
        part * once.rows / t.global_batch
    )


def describe_model(config: ModelConfig, model: PackedModel) -> str:
    size = sum(p.numel() for p in model.parameters())
    kinds = Counter(layer_types(model.config))
    blocks = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
    start = "random weights" if config.init == "random" else "its weights"
    return (
        f"{config.path} ({model.config.model_type}): {size / 1e6:,.1f}M parameters, "
        f"{len(model.blocks)} blocks ({blocks}), vocabulary {model.config.vocab_size:,}; "
        f"starts from {start}, computes in {config.compute}"
    )


def describe_source(source: Source) -> str:
    if not source.rows:
        return source.problem
    about = "" if source.exact else "about "
    files = f" in {source.files} files" if source.files > 1 else ""
    text = (
        f"{source.name}: {about}{source.rows:,} documents{files}, {about}{amount(source.tokens)} "
        f"tokens, {source.supervised:.0%} of them learnt"
    )
    if source.weight != 1:
        text += f"; {source.weight:g} passes an epoch"
    if source.flagged:
        text += f"; beside them {source.flagged:.1%} of the rows are flagged and left out"
    return f"{text}; refused: {source.problem}" if source.problem else text


def describe_rows(recipe: Recipe, once: Epoch | None) -> str:
    d = recipe.data
    kind = "packed" if d.packing == "best_fit" else "one document each"
    text = f"{d.seq_len:,} tokens, {kind}"
    if once is None:
        return f"{text}; how full is not known without data"
    return (
        f"{text}, about {once.fill:.1%} full; an epoch is about {once.rows:,} rows, "
        f"{amount(once.tokens)} tokens"
    )


def describe_steps(
    recipe: Recipe, world: int, passes: int, total: int | None, once: Epoch | None
) -> str:
    t = recipe.train
    places = t.global_batch * recipe.data.seq_len
    number = "not known without data" if total is None else f"{total:,}"
    if once and total and t.steps:
        number += f" ({total * t.global_batch / once.rows:.2f} epochs)"
    return (
        f"{number}, each of {t.global_batch:,} rows, {places:,} tokens: "
        f"{plural(world, 'process')} x {plural(passes, 'forward pass')} x "
        f"{plural(t.micro_batch, 'row')}"
    )


def describe_rate(config: OptimConfig, total: int | None) -> str:
    if total is not None:
        warmup = min(config.warmup_steps, max(total - 1, 0))
    else:
        warmup = config.warmup_steps
    rise = f"rises to {config.lr:g} over {plural(warmup, 'step')}" if warmup else f"{config.lr:g}"
    end = "the last step" if total is None else f"step {total:,}"
    shape = {
        "cosine": f"falls as a cosine to {config.min_lr:g} at {end}",
        "linear": f"falls in a straight line to {config.min_lr:g} at {end}",
        "constant": f"stays there until {end}",
    }[config.schedule]
    clip = f"gradients clipped to norm {config.clip:g}" if config.clip else "no clipping"
    return (
        f"{rise}, then {shape}; AdamW with betas {config.betas[0]:g} and {config.betas[1]:g}, "
        f"decay {config.weight_decay:g} of matrices; {clip}"
    )


def describe_checkpoints(recipe: Recipe, model: PackedModel) -> str:
    c, size = recipe.checkpoint, sum(p.numel() for p in model.parameters())
    one = 12 * size  # master weights and two moments, float32
    final = size * getattr(torch, c.final_dtype).itemsize
    return (
        f"every {plural(c.every, 'step')}, {amount(one, 'B')} each, the newest {c.keep} kept; "
        f"final/ {amount(final, 'B')} in {c.final_dtype}; {recipe.train.out} holds at most "
        f"{amount(one * (c.keep + 1) + final, 'B')} of them"
    )


def describe_work(
    recipe: Recipe, world: int, model: PackedModel, total: int | None, once: Epoch | None
) -> str:
    places, flops = recipe.train.global_batch * recipe.data.seq_len, model_flops(model)
    if once is None:
        documents, fill, supervised = np.array([recipe.data.seq_len]), 1.0, 1.0
    else:
        documents, fill, supervised = once.documents, once.fill, once.supervised
    tokens = int(documents.sum())
    step = flops.step(documents, round(supervised * tokens)) / tokens * places * fill
    name, peak = ASSUMED_PEAK
    here, _ = device(recipe, world)
    if peak_flops(here):
        name, peak = here, peak_flops(here)
    seconds = step / (ASSUMED_SHARE * peak * world)
    text = f"{step / 1e12:,.2f} TFLOP a step" + ("" if once else " of full rows, all learnt")
    if total is None:
        return text
    hours = total * seconds / 3600
    time = f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    return (
        f"{text}; {time} on {world} x {name} if {ASSUMED_SHARE:.0%} of the peak is reached "
        "(an assumption, not a measurement)"
    )


def device(recipe: Recipe, world: int) -> tuple[str, int]:
    """Name and bytes of what one process has: the GPU that is here or is assumed, or its part of
    this machine's memory."""
    if recipe.train.device == "cpu":
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return "this machine's memory" + (f" / {world}" if world > 1 else ""), whole // world
    if not torch.cuda.is_available():
        return ASSUMED_GPU
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory


def verdict(model: PackedModel, recipe: Recipe, world: int, memory: Estimate) -> str:
    """Whether it fits, and else the first change that would make it fit."""
    name, capacity = device(recipe, world)
    needs = f"{memory.total / 1e9:.1f} of {capacity / 1e9:.0f} GB ({name})"
    if memory.total <= capacity:
        return f"fits: {needs}"
    for change, changed, processes in _smaller(recipe, world):
        total = estimate(model, changed, processes).total
        if total <= capacity:
            return f"too large: {needs}; {change} would take {total / 1e9:.1f} GB"
    return f"too large: {needs}, and neither smaller settings nor eight times the GPUs make it fit"


def _smaller(recipe: Recipe, world: int) -> Iterator[tuple[str, Recipe, int]]:
    """Recipes that take less memory, those that cost the least speed first."""
    t = recipe.train
    modes = ("none", "selective", "full")
    for mode in modes[modes.index(t.recompute) :]:
        for micro_batch in dict.fromkeys((t.micro_batch, max(1, t.micro_batch // 2), 1)):
            change = [f"train.recompute={mode}"] if mode != t.recompute else []
            if micro_batch != t.micro_batch:
                change.append(f"train.micro_batch={micro_batch}")
            smaller = replace(t, micro_batch=micro_batch, recompute=mode)
            if change and t.global_batch % (micro_batch * world) == 0:
                yield " ".join(change), replace(recipe, train=smaller), world
    for processes in (2 * world, 4 * world, 8 * world):
        smaller = replace(t, micro_batch=1, recompute="full", global_batch=processes)
        change = f"{processes} GPUs with train.recompute=full train.micro_batch=1"
        yield change, replace(recipe, train=smaller), processes


def amount(number: float, unit: str = "") -> str:
    """12.3M, or 12.3 MB of a unit."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{' ' if unit else ''}{prefix}{unit}"
    return f"{number:.0f}{' ' if unit else ''}{unit}"


def plural(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
