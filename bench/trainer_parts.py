"""`python -m bench.trainer_parts JOB.json RESULT.json`: one part of `bench.gpu trainer`.

Each part runs in a process of its own, which writes its result anew after every run: what was
measured before an error, or before the time was up, is kept. Weights are random; rows are chats of
mixed lengths, packed. A step is hala-train's own, from the rows to the stepped weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import architectures
from bench.architectures import Raw
from bench.kernel_split import kernel_split
from bench.part import Part, run_job
from bench.peers.hf_loop import HfLoop
from bench.trainer_check import check
from bench.training_job import mixed_lengths, write_model, write_recipe, write_rows, write_weights

MOST_WORDS = 65_536
"""Of a vocabulary that rows are made of: more would only make a larger tokenizer."""

GEMMA_LAYERS = 42


@dataclass(frozen=True)
class Sizes:
    """How much each part does. `tokens`: places of a micro-batch."""

    tokens: int = 16_384
    accumulate: int = 2
    warm_up: int = 3
    timed: int = 6
    short: int = 2048
    long: int = 4096
    median_length: int = 400
    slices: tuple[int, int] = (4, 8)


TINY = Sizes(tokens=256, warm_up=1, timed=2, short=64, long=128, median_length=20, slices=(2, 4))


@dataclass(frozen=True)
class Run:
    """How one model is trained. `whole`: a document fills its row."""

    seq_len: int
    compile: bool = True
    recompute: str = "none"
    whole: bool = False


@dataclass
class Watch:
    """Stands where a run's meter does, and keeps what each step did."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)

    def add(self, tokens: int, places: int, flops: float) -> None:
        self.tokens.append(tokens)
        self.places.append(places)
        self.flops.append(flops)


def sizes_of(part: Part) -> Sizes:
    return TINY if part.tiny else Sizes()


def lfm2_2k(part: Part) -> None:
    """LFM2-1.2B on rows of 2048 tokens: blocks compiled, and as they are."""
    length = sizes_of(part).short
    _runs(part, architectures.lfm2_1b2(), [Run(length), Run(length, compile=False)])


def lfm2_4k(part: Part) -> None:
    """On rows of 4096: of many documents, and of one."""
    length = sizes_of(part).long
    _runs(part, architectures.lfm2_1b2(), [Run(length), Run(length, whole=True)])


def recompute(part: Part) -> None:
    """What keeping less for the backward pass costs in time, and saves."""
    length = sizes_of(part).long
    modes = [Run(length, recompute=mode) for mode in ("selective", "full")]
    _runs(part, architectures.lfm2_1b2(), modes)


def gemma_9b(part: Part) -> None:
    """Slices of two depths of Gemma2-9B, and from them all its layers."""
    sizes = sizes_of(part)
    part.result["slices"] = {}
    part.limits()  # while the memory is free
    for layers in sizes.slices:
        raw = part.sized(architectures.gemma2_9b() | {"num_hidden_layers": layers})
        job = Run(sizes.long, recompute="selective")
        with _model(part, raw) as folder:
            part.result["slices"][layers] = trained(part, folder, job)
        part.save()
    few, many = (part.result["slices"][n] for n in sizes.slices)
    scaled = {}
    for key in ("seconds", "flops"):
        a, b = (float(np.mean(entry[key])) for entry in (few, many))
        a_layer = (b - a) / (sizes.slices[1] - sizes.slices[0])
        scaled[key] = a + (GEMMA_LAYERS - sizes.slices[0]) * a_layer
    tokens = float(np.mean(many["tokens"]))
    part.result["scaled_to_layers"] = GEMMA_LAYERS
    part.result["scaled"] = scaled | _rates(part, tokens, scaled["seconds"], scaled["flops"])
    part.save()


def transformers(part: Part) -> None:
    """A plain loop over `transformers`' LFM2-1.2B: padded batches of the same documents."""
    sizes, raw = sizes_of(part), part.sized(architectures.lfm2_1b2())
    lengths = mixed_lengths(10_000, sizes.short, sizes.median_length)
    documents = round(sizes.tokens / lengths.mean())
    accumulate = sizes.accumulate
    loop = HfLoop(raw, part.device)
    while documents:
        found: dict[str, Any] = {"documents": documents, "accumulate": accumulate, "seconds": []}
        try:
            for step in range(sizes.warm_up + sizes.timed):
                drawn = lengths[np.arange(documents * accumulate) + step * documents * accumulate]
                seconds = loop.step(drawn.reshape(accumulate, documents), seed=step)
                if step >= sizes.warm_up:
                    found["seconds"].append(seconds)
                    found.setdefault("tokens", []).append(int(drawn.sum()))
                if part.late and found["seconds"]:
                    break
        except torch.OutOfMemoryError:
            documents, accumulate = documents // 2, accumulate * 2
            part.result.setdefault("too_many_documents", []).append(found["documents"])
            loop.clear()
            continue
        found["tokens_per_s"] = sum(found["tokens"]) / sum(found["seconds"])
        found["peak_bytes"] = _peak(part)
        part.result |= found
        break
    part.save()


PARTS: dict[str, Callable[[Part], None]] = {
    part.__name__: part for part in (check, lfm2_2k, transformers, lfm2_4k, gemma_9b, recompute)
}
"""By name, in order of importance."""


def _runs(part: Part, raw: Raw, jobs: list[Run]) -> None:
    part.result["runs"] = []
    part.limits()  # while the memory is free
    with _model(part, part.sized(raw)) as folder:
        for job in jobs:
            part.result["runs"].append(trained(part, folder, job))
            part.save()


def _model(part: Part, raw: Raw) -> tempfile.TemporaryDirectory:
    """A directory with a model of random weights in `model/`."""
    folder = tempfile.TemporaryDirectory()
    model = write_model(Path(folder.name) / "model", raw, min(raw["vocab_size"], MOST_WORDS))
    write_weights(model, part.device)
    part.clear()
    return folder


def trained(part: Part, folder: str, job: Run) -> dict[str, Any]:
    """Seconds, tokens and FLOPs of steps of a run, its memory, and a step by kind of kernel; or an
    "error", when they do not fit. A miniature is not compiled, which takes longer than the rest."""
    job = replace(job, compile=job.compile and not part.tiny)
    found = {key: getattr(job, key) for key in ("seq_len", "compile", "recompute", "whole")}
    try:
        found |= _trained(part, Path(folder), job)
    except torch.OutOfMemoryError as error:
        found["error"] = f"out of memory: {str(error).partition('.')[0]}"
    torch.compiler.reset()
    part.clear()
    return found


def _trained(part: Part, folder: Path, job: Run) -> dict[str, Any]:
    from hala_trainer.distributed import processes
    from hala_trainer.loop import StopFlag, train_step
    from hala_trainer.recipe import load_recipe
    from hala_trainer.run import set_up

    sizes = sizes_of(part)
    with tempfile.TemporaryDirectory(dir=folder) as out, processes(part.device) as group:
        recipe = load_recipe(_recipe(Path(out), folder / "model", sizes, job, part.device), [])
        begin = time.monotonic()
        run, stop, watch = set_up(recipe, group), StopFlag(), Watch()
        run.meter = watch

        def step() -> float:
            begin = time.perf_counter()
            train_step(run, stop)
            if part.device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begin

        found: dict[str, Any] = {"set_up_s": time.monotonic() - begin}
        found["first_steps_s"] = [step() for _ in range(sizes.warm_up)]
        if part.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found["seconds"] = []
        while len(found["seconds"]) < sizes.timed and not (part.late and found["seconds"]):
            found["seconds"].append(step())
        for key, values in vars(watch).items():
            found[key] = values[sizes.warm_up :]
        found["peak_bytes"] = _peak(part)
        found["split"] = kernel_split(step, part.device)
    found |= _rates(part, *(sum(found[key]) for key in ("tokens", "seconds", "flops")))
    return found | _estimate(recipe, found["peak_bytes"])


def _recipe(out: Path, model: Path, sizes: Sizes, job: Run, device: str) -> Path:
    rows, per_step = sizes.tokens // job.seq_len, sizes.tokens // job.seq_len * sizes.accumulate
    places = (sizes.warm_up + sizes.timed + 2) * per_step * job.seq_len
    lengths = np.full(places // job.seq_len, job.seq_len)
    if not job.whole:
        # Rows are about 98% full: a tenth more than enough.
        lengths = mixed_lengths(places, job.seq_len, sizes.median_length)
        lengths = lengths[: np.searchsorted(np.cumsum(lengths), 1.1 * places) + 1]
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    write_rows(out / "rows.jsonl", lengths, min(vocabulary, MOST_WORDS))
    sections = {
        "model": {"path": str(model)},
        "data": {"train": [str(out / "rows.jsonl")], "seq_len": job.seq_len},
        "train": {
            "out": str(out / "run"),
            "steps": sizes.warm_up + sizes.timed + 1,
            "global_batch": per_step,
            "micro_batch": rows,
            "compile": job.compile,
            "recompute": job.recompute,
            "device": device,
        },
        "log": {"tensorboard": False},
    }
    return write_recipe(out / "recipe.toml", sections)


def _rates(part: Part, tokens: float, seconds: float, flops: float) -> dict[str, float]:
    from hala_trainer.flops import peak_flops

    rate = flops / seconds
    found = {
        "tokens_per_s": tokens / seconds,
        "flops_per_s": rate,
        "share_of_gemm_rate": rate / part.limits().bf16,
    }
    peak = peak_flops(torch.cuda.get_device_name()) if part.device == "cuda" else None
    return found | ({"mfu": rate / peak} if peak else {})


def _estimate(recipe: Any, peak: int | None) -> dict[str, Any]:
    """Of hala-train --dry-run for this run, but for what is no tensor."""
    from hala_trainer.model import loading
    from hala_trainer.planning.memory import RESERVE, estimate

    config = loading.load_config(loading.find_model(recipe.model))
    found = estimate(loading.build(config, recipe.model.compute), recipe, world=1)
    total = found.total - RESERVE
    result = {"estimate_bytes": total, "estimate_parts": found.parts, "moment": found.moment}
    return result | ({"estimate_over_peak": total / peak} if peak else {})


def _peak(part: Part) -> int | None:
    return torch.cuda.max_memory_allocated() if part.device == "cuda" else None


if __name__ == "__main__":
    run_job(PARTS, *sys.argv[1:])
