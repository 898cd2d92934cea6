"""The measurements: an engine loaded, then the same work several times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hala_engine.benchmark.config import BenchConfig
from hala_engine.benchmark.memory import peak_memory
from hala_engine.benchmark.workload import Workload
from hala_engine.engine import Engine
from hala_engine.errors import InputError, JobError
from hala_engine.sampling import SamplingParams
from hala_engine.stats import EngineStats

WARM_UP_TOKENS = 4

Say = Callable[[str], None]
"""Takes a line about how far the work is."""


@dataclass(frozen=True)
class Sample:
    """One run of the workload. `first_token_s`: from a prompt, alone on the engine, to its first
    token. `steps`, `preemptions`: of the engine. `host_s`: its time outside steps, for scheduler,
    tokens and Python; a GPU computes meanwhile."""

    seconds: float
    first_token_s: float
    steps: int
    preemptions: int
    host_s: float


@dataclass(frozen=True)
class Measured:
    """What our engine did. `device`, `dtype`: chosen by it."""

    device: str
    dtype: str
    load_s: float
    peak_memory_bytes: int
    samples: list[Sample]


def measure(config: BenchConfig, say: Say) -> Measured:
    """Raises InputError for what cannot be run, before it is run."""
    engine_config = config.engine_config()
    begin = time.perf_counter()
    engine = Engine(config.path, config=engine_config, random_weights=config.random_weights)
    load_s = time.perf_counter() - begin
    say(f"loaded in {load_s:.2f} s on {engine.device}, {_name(engine.dtype)}")
    _check_room(engine, config.workload)
    _warm_up(engine, config)
    samples = []
    for repeat in range(config.repeats):
        samples.append(_sample(engine, config.workload, repeat))
        rate = sum(config.workload.lengths()[1]) / samples[-1].seconds
        say(f"run {repeat + 1} of {config.repeats}: {rate:,.0f} new tokens/s")
    return Measured(
        device=str(engine.device),
        dtype=_name(engine.dtype),
        load_s=load_s,
        peak_memory_bytes=peak_memory(engine.device),
        samples=samples,
    )


def generate(engine: Engine, prompts: list[list[int]], wanted: list[int]) -> list[list[int]]:
    """`wanted[i]` greedy tokens for `prompts[i]`. Raises JobError if the engine gives others."""
    params = [SamplingParams(max_new_tokens=n, ignore_eos=True) for n in wanted]
    outputs = [output.token_ids for output in engine.generate(prompts, params)]
    for tokens, n in zip(outputs, wanted, strict=True):
        if len(tokens) != n:
            raise JobError(f"the engine gave {len(tokens)} tokens where {n} were forced")
    return outputs


def _sample(engine: Engine, workload: Workload, repeat: int) -> Sample:
    prompts = workload.prompts(engine.model.config.vocab_size, repeat)
    lengths, wanted = workload.lengths()
    middle = sorted(range(len(prompts)), key=lengths.__getitem__)[len(prompts) // 2]
    # One token of it turned, lest the prompt itself be in a cache when its turn comes.
    alone = [(prompts[middle][0] + 1) % engine.model.config.vocab_size, *prompts[middle][1:]]
    first_token_s = _seconds(lambda: generate(engine, [alone], [1]))
    before = _totals(engine.stats)
    seconds = _seconds(lambda: generate(engine, prompts, wanted))
    steps, preemptions, host_s = (
        after - was for after, was in zip(_totals(engine.stats), before, strict=True)
    )
    return Sample(seconds, first_token_s, steps, preemptions, host_s)


def _totals(stats: EngineStats) -> tuple[int, int, float]:
    return stats.steps, stats.preemptions, stats.seconds - stats.step_seconds


def _warm_up(engine: Engine, config: BenchConfig) -> None:
    """A full batch, so that all that is made on first use is made."""
    prompts = config.workload.prompts(engine.model.config.vocab_size, -1)[: config.batch_size]
    _, wanted = config.workload.lengths()
    generate(engine, prompts, [min(n, WARM_UP_TOKENS) for n in wanted[: len(prompts)]])


def _check_room(engine: Engine, workload: Workload) -> None:
    if engine.max_model_len < workload.longest:
        raise InputError(
            f"the memory for the cache holds sequences of up to {engine.max_model_len} tokens, "
            f"--prompt-len and --output-len ask for {workload.longest}"
        )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
