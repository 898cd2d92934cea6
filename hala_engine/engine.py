"""Engine: a stream of requests in, finished sequences out.

engine = Engine("LiquidAI/LFM2-1.2B")
for output in engine.generate(["Once upon a time"], SamplingParams(max_new_tokens=64)):
    print(output.text)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache
from hala_engine.device import available_memory, choose_device, choose_dtype
from hala_engine.errors import InputError
from hala_engine.layers.linear import Placement
from hala_engine.models.registry import load_model
from hala_engine.runner import Runner
from hala_engine.sampling import SamplingParams, StopStrings
from hala_engine.scheduler import Scheduler, Sequence
from hala_engine.tokenizer import Tokenizer, trim_unfinished_character
from hala_engine.weights.checkpoint import fingerprint, read_json, resolve_model

Prompt = str | list[int] | list[dict]
"""Plain text, token ids, or chat messages."""

INVARIANT_CHUNK = 256
"""Prompt chunk of the deterministic mode, whatever the token budget."""


@dataclass(frozen=True)
class EngineConfig:
    """device: auto, cpu, cuda. dtype: auto (bfloat16 where the processor has it), float32,
    bfloat16. max_batch_size: sequences that run at once. max_batched_tokens: tokens of a step;
    None: 512 on the CPU (more only makes its temporaries fall out of cache), 8192 on a GPU.
    memory_utilization: share of the memory that is free after loading which the cache may take.
    max_model_len: prompt and output tokens of a request; None: the model's own limit.
    deterministic: greedy tokens of a request do not depend on what runs beside it."""

    device: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    max_batch_size: int = 64
    max_batched_tokens: int | None = None
    memory_utilization: float = 0.8
    max_model_len: int | None = None
    page_size: int = 16
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_batched_tokens", "page_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1")
        if not 0 < self.memory_utilization <= 1:
            raise InputError("memory_utilization must be above 0 and at most 1")
        if self.kv_cache_dtype != "auto":
            raise InputError(f"kv_cache_dtype {self.kv_cache_dtype} is not supported yet; use auto")


@dataclass(frozen=True)
class Output:
    """`index`: position of the prompt. `finish_reason`: stop, length, or error with its `error`.
    `token_ids` and `text` leave out the stop token and stop string."""

    index: int
    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    error: str | None = None


@dataclass
class EngineStats:
    """What runs now (`running`, `waiting`, `cache_use` from 0 to 1) and totals since the start."""

    max_batch_size: int
    running: int = 0
    waiting: int = 0
    cache_use: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    preemptions: int = 0


class Engine:
    """A model with its cache. Raises InputError for a model directory that cannot be used.

    `batch_invariant` says that a request's greedy tokens are its own, bit for bit.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self.config = config = config or EngineConfig()
        self.model_path = resolve_model(model, revision)
        self.device = choose_device(config.device)
        self.dtype = choose_dtype(config.dtype, self.device)
        self.batch_invariant = config.deterministic
        place = Placement(self.dtype, self.device, invariant=config.deterministic)
        self.model = load_model(self.model_path, place)
        self.tokenizer = Tokenizer(self.model_path)
        self._stop_ids = _stop_ids(self.model_path, self.tokenizer)
        limit = self.model.config.max_positions
        wanted = min(limit, config.max_model_len or limit)
        spec = self.model.cache_spec
        num_pages = _plan_pages(spec, config, wanted, self.device, self.dtype.itemsize)
        self.max_model_len = min(wanted, num_pages * config.page_size)
        self.cache = Cache(
            spec,
            num_pages=num_pages,
            page_size=config.page_size,
            max_sequences=config.max_batch_size,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            device=self.device,
        )
        self.runner = Runner(self.model, self.cache, self.device)
        self.stats = EngineStats(config.max_batch_size)
        self._generating = False

    @property
    def fingerprint(self) -> str:
        """Identifies the model's files; see `hala_engine.weights.checkpoint.fingerprint`."""
        return fingerprint(self.model_path)

    def generate(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        ordered: bool = True,
    ) -> Iterator[Output]:
        """Outputs of `prompts`, in their order, or as they finish with `ordered=False`.

        Prompts are pulled as there is room, so the stream may be endless. A prompt that cannot run
        gives an output with finish_reason "error" and stops nothing. Closing the iterator frees
        what is in flight. One `generate` runs at a time.
        """
        if params is None:
            params = SamplingParams()
        params = itertools.repeat(params) if isinstance(params, SamplingParams) else params
        outputs = self._run(_requests(prompts, iter(params)))
        return _in_order(outputs) if ordered else outputs

    def _run(self, requests: Iterator[tuple[int, Prompt, SamplingParams]]) -> Iterator[Output]:
        if self._generating:
            raise RuntimeError("this engine is already generating; finish or close that first")
        budget = self.config.max_batched_tokens or (512 if self.device.type == "cpu" else 8192)
        if self.batch_invariant:
            scheduler = Scheduler(self.cache, max(budget, INVARIANT_CHUNK), INVARIANT_CHUNK)
        else:
            scheduler = Scheduler(self.cache, budget)
        look_ahead = self.config.max_batch_size
        self._generating = True
        try:
            while True:
                while len(scheduler.waiting) < look_ahead:
                    request = next(requests, None)
                    if request is None:
                        break
                    admitted = self._admit(*request)
                    if isinstance(admitted, Output):
                        yield admitted
                    else:
                        scheduler.add(admitted)
                if not scheduler.has_work:
                    return
                schedule = scheduler.schedule()
                tokens = self.runner.step(schedule)
                finished = scheduler.update(schedule, tokens)
                self._record(scheduler, finished)
                for sequence in finished:
                    yield self._output(sequence)
        finally:
            scheduler.abort()
            self.stats.running = self.stats.waiting = 0
            self._generating = False

    def _admit(self, index: int, prompt: Prompt, params: SamplingParams) -> Sequence | Output:
        """The request as a sequence, or the output that says why it cannot be one."""
        ids = self._token_ids(prompt)
        problem = None
        if not ids:
            problem = "the prompt has no tokens"
        elif len(ids) >= self.max_model_len:
            problem = f"the prompt has {len(ids)} tokens, the context is {self.max_model_len}"
        elif not 0 <= min(ids) <= max(ids) < self.model.config.vocab_size:
            problem = f"a token id is not in 0..{self.model.config.vocab_size - 1}"
        if problem:
            return Output(index, "", [], len(ids), "error", problem)
        seed = params.seed if params.seed is not None else self.config.seed * 1_000_003 + index
        return Sequence(
            index=index,
            prompt=ids,
            params=params,
            seed=seed,
            max_tokens=min(self.max_model_len, len(ids) + params.max_new_tokens),
            stop_ids=frozenset(params.stop_token_ids)
            | (frozenset() if params.ignore_eos else self._stop_ids),
            stop_strings=StopStrings(params.stop, self.tokenizer.detokenizer())
            if params.stop
            else None,
        )

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if prompt and isinstance(prompt[0], dict):
            return self.tokenizer.apply_chat(prompt)
        return list(prompt)

    def _output(self, sequence: Sequence) -> Output:
        text = sequence.text
        if text is None:
            text = self.tokenizer.decode(sequence.output)
            if sequence.finish_reason == "length":
                text = trim_unfinished_character(text)
        return Output(
            sequence.index, text, sequence.output, len(sequence.prompt), sequence.finish_reason
        )

    def _record(self, scheduler: Scheduler, finished: list[Sequence]) -> None:
        stats = self.stats
        stats.steps += 1
        stats.running = len(scheduler.running)
        stats.waiting = len(scheduler.waiting)
        stats.cache_use = 1 - self.cache.free_pages / self.cache.num_pages
        stats.preemptions = scheduler.preemptions
        stats.prompt_tokens += sum(len(sequence.prompt) for sequence in finished)
        stats.output_tokens += sum(len(sequence.output) for sequence in finished)


def _requests(
    prompts: Iterable[Prompt], params: Iterator[SamplingParams]
) -> Iterator[tuple[int, Prompt, SamplingParams]]:
    for index, prompt in enumerate(prompts):
        of_prompt = next(params, None)
        if of_prompt is None:
            raise ValueError(f"there are only {index} sampling params for more prompts than that")
        yield index, prompt, of_prompt


def _in_order(outputs: Iterator[Output]) -> Iterator[Output]:
    """Hold back what finished before an earlier prompt did."""
    early: dict[int, Output] = {}
    wanted = 0
    try:
        for output in outputs:
            early[output.index] = output
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1
    finally:
        outputs.close()


def _stop_ids(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The end-of-sequence ids of generation_config.json, config.json and the tokenizer."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            eos = read_json(directory / name).get("eos_token_id")
            ids.update(eos if isinstance(eos, list) else [] if eos is None else [eos])
    if tokenizer.eos_id is not None:
        ids.add(tokenizer.eos_id)
    return frozenset(ids)


def _plan_pages(
    spec: CacheSpec, config: EngineConfig, max_model_len: int, device: torch.device, itemsize: int
) -> int:
    """Pages for every sequence at full length, or what the memory holds if that is less."""
    page_bytes = spec.bytes_per_token(itemsize) * config.page_size
    wanted = config.max_batch_size * -(-max_model_len // config.page_size)
    if not page_bytes:
        return wanted
    free = available_memory(device) * config.memory_utilization
    free -= config.max_batch_size * spec.bytes_per_sequence(itemsize)
    affordable = int(free // page_bytes) - 1
    if affordable < 1:
        raise InputError(
            f"no memory left for the cache on {device}: a page needs {page_bytes:,} bytes; "
            "lower --max-batch-size or free memory"
        )
    return min(wanted, affordable)
