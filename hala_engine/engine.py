"""Engine: a stream of requests in, finished sequences out.

engine = Engine("LiquidAI/LFM2-1.2B")
for output in engine.generate(["Once upon a time"], SamplingParams(max_new_tokens=64)):
    print(output.text)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from hala_engine.cache import Cache
from hala_engine.device import (
    available_memory,
    choose_device,
    choose_dtype,
    multiplies_fp8,
    use_granted_cores,
)
from hala_engine.errors import InputError
from hala_engine.graph_runner import GraphRunner
from hala_engine.intake import Intake, Prompt, Request
from hala_engine.logprobs import TokenLogprob
from hala_engine.memory import CachePlan, plan_cache
from hala_engine.models.registry import load_model, random_model
from hala_engine.prefix import SharedPrefixes
from hala_engine.runner import Runner
from hala_engine.sampling import SamplingParams, StopStrings
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence
from hala_engine.stats import EngineStats
from hala_engine.steps import Steps
from hala_engine.tokenizer import Tokenizer, trim_unfinished_character
from hala_engine.weights.directory import fingerprint, read_json, resolve_model
from hala_engine.weights.source import Placement

INVARIANT_CHUNK = 256
"""Prompt chunk of the deterministic mode, whatever the token budget."""

BLOCK_BATCHES = 4
"""Requests that are put in order together, in multiples of the batch. More packs better; outputs in
the order of the prompts wait for longer."""

MAX_PREFIXES = 16
"""Shared prefixes that are kept: a job has few templates, and each costs a convolution state."""


@dataclass(frozen=True)
class EngineConfig:
    """device: auto, cpu, cuda. dtype: auto (bfloat16 where the processor has it), float32,
    bfloat16. kv_cache_dtype: auto (as `dtype`), fp8 (e4m3). max_batch_size: sequences that run at
    once. max_batched_tokens: tokens of a step; None: 512 on the CPU (more only makes its
    temporaries fall out of cache), 8192 on a GPU. memory_utilization: share of the memory that is
    free after loading which the cache may take. max_cached_tokens: tokens whose K and V it holds,
    if that is less. max_model_len: prompt and output tokens of a
    request; None: the model's own limit. deterministic: greedy tokens of a request do not depend on
    what runs beside it. prefix_caching: what prompts have in common at their start is computed
    once."""

    device: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    max_batch_size: int = 64
    max_batched_tokens: int | None = None
    memory_utilization: float = 0.8
    max_cached_tokens: int | None = None
    max_model_len: int | None = None
    page_size: int = 16
    deterministic: bool = False
    prefix_caching: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_batched_tokens", "max_cached_tokens", "page_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1")
        if not 0 < self.memory_utilization <= 1:
            raise InputError("memory_utilization must be above 0 and at most 1")
        if self.kv_cache_dtype not in ("auto", "fp8"):
            raise InputError(f"kv_cache_dtype {self.kv_cache_dtype!r} is not one of auto, fp8")

    def kv_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of the cache's K and V in a model of `dtype`."""
        return torch.float8_e4m3fn if self.kv_cache_dtype == "fp8" else dtype

    @property
    def max_snapshots(self) -> int:
        return MAX_PREFIXES if self.prefix_caching else 0

    def step_tokens(self, device: torch.device) -> int:
        """The most tokens of a step."""
        budget = self.max_batched_tokens or (512 if device.type == "cpu" else 8192)
        return max(budget, INVARIANT_CHUNK) if self.deterministic else budget

    def plan_cache(
        self, model: nn.Module, *, free: int, dtype: torch.dtype, device: torch.device
    ) -> CachePlan:
        """The cache of `model` in `dtype` where `device` has `free` bytes left. Raises InputError
        when there is no room for a single page."""
        limit, spec = model.config.max_positions, model.cache_spec
        room = int(free * self.memory_utilization)
        if self.max_cached_tokens:
            pages = -(-self.max_cached_tokens // self.page_size) * len(spec.groups) + 1
            states = self.max_batch_size + self.max_snapshots
            page_bytes = spec.page_bytes(self.page_size, self.kv_dtype(dtype).itemsize)
            room = min(room, pages * page_bytes + states * spec.state_bytes(dtype.itemsize))
        return plan_cache(
            spec,
            free=room,
            dtype=dtype,
            kv_dtype=self.kv_dtype(dtype),
            page_size=self.page_size,
            max_sequences=self.max_batch_size,
            max_snapshots=self.max_snapshots,
            max_model_len=min(limit, self.max_model_len or limit),
            chunk=self.step_tokens(device),
            where=device,
        )


@dataclass(frozen=True)
class Output:
    """`index`: position of the prompt. `finish_reason`: stop, length, or error with its `error`.
    `token_ids` leaves out the stop token, `text` the stop string as well. `logprobs`: of each of
    `token_ids`, and `prompt_logprobs`: of the prompt's tokens, None for the first; both None unless
    asked for."""

    index: int
    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    error: str | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[float | None] | None = None


class Engine:
    """A model with its cache. Raises InputError for a model directory that cannot be used.

    random_weights: `model` is a config.json, or a directory with one, and its weights are drawn;
    prompts are then token ids, and outputs have no text. `batch_invariant` says that a request's
    greedy tokens are its own, bit for bit.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        config: EngineConfig | None = None,
        random_weights: bool = False,
    ) -> None:
        self.config = config = config or EngineConfig()
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            use_granted_cores()
        self.dtype = choose_dtype(config.dtype, self.device)
        self.batch_invariant = config.deterministic
        place = Placement(
            self.dtype,
            self.device,
            invariant=config.deterministic,
            fp8=multiplies_fp8(self.device),
        )
        if random_weights:
            path = Path(model)
            self.model_path = path = path / "config.json" if path.is_dir() else path
            self.model = random_model(read_json(path), path, place, config.seed)
            self.tokenizer, self._stop_ids = None, frozenset()
        else:
            self.model_path = resolve_model(model, revision)
            self.model = load_model(self.model_path, place)
            self.tokenizer = Tokenizer(self.model_path)
            self._stop_ids = _stop_ids(self.model_path, self.tokenizer)
        self.plan = config.plan_cache(
            self.model, free=available_memory(self.device), dtype=self.dtype, device=self.device
        )
        self.max_model_len = self.plan.max_model_len
        self.cache = Cache(
            self.model.cache_spec,
            num_pages=self.plan.num_pages,
            page_size=config.page_size,
            max_sequences=config.max_batch_size,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            kv_dtype=config.kv_dtype(self.dtype),
            device=self.device,
            max_snapshots=config.max_snapshots,
        )
        self.prefixes = SharedPrefixes(
            self.cache, config.max_snapshots, INVARIANT_CHUNK if config.deterministic else 1
        )
        runner_class = GraphRunner if self.device.type == "cuda" else Runner
        self.runner = runner_class(self.model, self.cache, self.device)
        self.stats = EngineStats(config.max_batch_size)
        self._generating = False

    @property
    def fingerprint(self) -> str:
        """Identifies the model's files; see `hala_engine.weights.directory.fingerprint`."""
        return fingerprint(self.model_path)

    def forget(self) -> None:
        """Drop what earlier requests left, so that the next ones run as they would first thing:
        greedy near ties and log-probabilities then do not depend on the engine's past."""
        self.prefixes.clear()

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
        intake = Intake(
            prompts,
            iter(params),
            self.tokenizer,
            block=BLOCK_BATCHES * self.config.max_batch_size,
            in_thread=self.runner.runs_ahead,
        )
        outputs = self._run(intake)
        return _in_order(outputs) if ordered else outputs

    def _run(self, intake: Intake) -> Iterator[Output]:
        if self._generating:
            raise RuntimeError("this engine is already generating; finish or close that first")
        scheduler = Scheduler(
            self.cache,
            self.prefixes,
            self.config.step_tokens(self.device),
            INVARIANT_CHUNK if self.batch_invariant else None,
        )
        before = replace(self.stats)
        self._generating = True
        steps = Steps(scheduler, self.runner, self.stats)
        started = perf_counter()
        try:
            is_open = True
            while True:
                while is_open and len(scheduler.waiting) < self.config.max_batch_size:
                    block = intake.next_block()
                    is_open = bool(block)
                    yield from self._admit(scheduler, block)
                if not scheduler.has_work:
                    return
                finished = steps.next()
                self._record(scheduler, finished)
                self.stats.shared_tokens = before.shared_tokens + scheduler.shared_tokens
                self.stats.preemptions = before.preemptions + scheduler.preemptions
                self.stats.seconds = before.seconds + perf_counter() - started
                yield from self._outputs(finished)
        finally:
            intake.close()
            steps.drain()
            scheduler.abort()
            self.stats.running = self.stats.waiting = 0
            self._generating = False

    def _admit(self, scheduler: Scheduler, block: list[Request]) -> Iterator[Output]:
        """Let the requests of a block wait for their turn; an output for each that cannot run."""
        accepted = []
        for request in block:
            if problem := self._problem(request):
                ids = request.ids or []
                yield Output(request.index, "", [], len(ids), "error", problem)
            else:
                accepted.append(self._sequence(request))
        scheduler.add(*accepted)

    def _problem(self, request: Request) -> str | None:
        """Why the request cannot run; None if it can."""
        if request.error:
            return request.error
        ids = request.ids
        if not ids:
            return "the prompt has no tokens"
        if len(ids) >= self.max_model_len:
            return f"the prompt has {len(ids)} tokens, the context is {self.max_model_len}"
        if not self._are_tokens(ids):
            return f"a token id is not in 0..{self.model.config.vocab_size - 1}"
        if not self._are_tokens(request.params.logprob_token_ids):
            return f"logprob_token_ids are not in 0..{self.model.config.vocab_size - 1}"
        return None

    def _sequence(self, request: Request) -> Sequence:
        index, params, ids = request.index, request.params, request.ids
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
            if params.stop and self.tokenizer
            else None,
        )

    def _are_tokens(self, ids: list[int] | tuple[int, ...]) -> bool:
        return not ids or 0 <= min(ids) <= max(ids) < self.model.config.vocab_size

    def _outputs(self, finished: list[Sequence]) -> Iterator[Output]:
        """Their texts are decoded together."""
        if not finished:
            return
        tokens = [sequence.output for sequence in finished]
        texts = self.tokenizer.decode_batch(tokens) if self.tokenizer else [""] * len(finished)
        for sequence, ids, text in zip(finished, tokens, texts, strict=True):
            if sequence.text is not None:
                text = sequence.text
            elif sequence.finish_reason == "length":
                text = trim_unfinished_character(text)
            params = sequence.params
            scores = [None, *sequence.prompt_logprobs] if params.prompt_logprobs else None
            yield Output(
                sequence.index,
                text,
                ids,
                len(sequence.prompt),
                sequence.finish_reason,
                logprobs=sequence.logprobs if params.wants_logprobs else None,
                prompt_logprobs=scores,
            )

    def _record(self, scheduler: Scheduler, finished: list[Sequence]) -> None:
        stats = self.stats
        stats.running = len(scheduler.running)
        stats.waiting = len(scheduler.waiting)
        if self.cache.num_pages:
            stats.cache_use = 1 - self.cache.free_pages / self.cache.num_pages
        stats.prompt_tokens += sum(len(sequence.prompt) for sequence in finished)
        stats.output_tokens += sum(len(sequence.output) for sequence in finished)


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
