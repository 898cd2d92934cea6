"""The whole of a `hala-engine bench`: our engine, then the baseline on the same prompts."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from datetime import UTC, datetime

import torch

from hala_engine.benchmark.baseline import Baseline
from hala_engine.benchmark.config import BenchConfig
from hala_engine.benchmark.machine import device_name, versions
from hala_engine.benchmark.measure import Say, measure
from hala_engine.benchmark.report import BaselineResult, BenchResult
from hala_engine.device import choose_device, choose_dtype


def run(config: BenchConfig, say: Say = lambda line: None) -> BenchResult:
    """Raises InputError before any work, JobError when work has begun and cannot go on."""
    vocab_size = config.vocab_size
    measured = measure(config, say)
    baseline = None
    if config.baseline is not None:
        gc.collect()  # the engine's memory is the baseline's now
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        baseline = _baseline(config, vocab_size, say)
    device = choose_device(config.engine.device)
    return BenchResult(
        model=config.name,
        architecture=config.raw["model_type"],
        random_weights=config.random_weights,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device_name=device_name(device),
        versions=versions(),
        engine=asdict(config.engine),
        workload=config.workload,
        batch_size=config.batch_size,
        measured=measured,
        baseline=baseline,
    )


def _baseline(config: BenchConfig, vocab_size: int, say: Say) -> BaselineResult:
    device = choose_device(config.engine.device)
    dtype = choose_dtype(config.engine.dtype, device)
    begin = time.perf_counter()
    baseline = Baseline(
        config.path, random_weights=config.random_weights, dtype=dtype, device=device
    )
    load_s = time.perf_counter() - begin
    say(f"transformers loaded in {load_s:.2f} s")
    lengths, wanted = config.workload.lengths()
    # Its first call makes what is made on first use.
    baseline.generate(
        [[0] * min(lengths)] * config.batch_size, [2] * config.batch_size, len(wanted)
    )
    seconds = []
    for repeat in range(config.repeats):
        prompts = config.workload.prompts(vocab_size, repeat)
        begin = time.perf_counter()
        baseline.generate(prompts, wanted, config.batch_size)
        seconds.append(time.perf_counter() - begin)
        rate = sum(wanted) / seconds[-1]
        say(f"transformers, run {repeat + 1} of {config.repeats}: {rate:,.0f} new tokens/s")
    return BaselineResult("transformers", load_s, seconds)
