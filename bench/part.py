"""What a part of `bench.gpu engine` works with: its sizes, its time, engines, and its result."""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench import architectures
from bench.architectures import Raw
from bench.kernels.timing import Limits, limits
from hala_engine import Engine, EngineConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    requests: int = 1024
    lengths: tuple[int, int] = (50, 150)
    slots: tuple[int, ...] = (512, 1024, 256)
    peer_requests: int = 512
    peer_batches: tuple[int, ...] = (256, 512)
    batches: tuple[int, ...] = (1, 8, 32, 64, 128, 256, 512)
    prompt: int = 100
    steps: tuple[int, int] = (8, 72)
    fp8_requests: int = 256
    fp8_slots: int = 128
    slices: tuple[int, int] = (4, 8)
    idle_batch: int = 256
    idle_tokens: int = 48
    repeats: int = 3


TINY = Sizes(
    requests=8,
    lengths=(4, 9),
    slots=(4, 8),
    peer_requests=4,
    peer_batches=(2,),
    batches=(1, 4),
    prompt=6,
    steps=(2, 6),
    fp8_requests=4,
    fp8_slots=4,
    idle_batch=4,
    idle_tokens=6,
    repeats=2,
)
TINY_CACHE = {"num_blocks": 16, "block_size": 16, "max_batch_tokens": 64}
"""Of transformers' continuous batching, which would take most of the machine's memory."""


@dataclass
class Part:
    """A running part: what it may use, and what it has found (`result`), which `save` writes."""

    device: str
    tiny: bool
    deadline: float
    file: Path
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes:
        return TINY if self.tiny else Sizes()

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def save(self) -> None:
        self.file.write_text(json.dumps(self.result))

    def sized(self, raw: Raw) -> Raw:
        return architectures.miniature(raw) if self.tiny else raw

    def limits(self) -> Limits:
        """Of this device; measured once a process."""
        found = limits(torch.device(self.device)) if self.device == "cuda" else _cpu_limits()
        self.result["limits"] = vars(found)
        return found

    def on_engine(self, raw: Raw, work: Callable[[Engine], T], **config: Any) -> T:
        """What `work` gives for an engine with random weights in bfloat16, or FP8. Its memory is
        free afterwards, so `work` must not keep it."""
        with config_file(raw) as path:
            engine = Engine(
                path,
                config=EngineConfig(device=self.device, dtype="bfloat16", **config),
                random_weights=True,
            )
        try:
            return work(engine)
        finally:
            del engine
            self.clear()

    def clear(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def config_file(raw: Raw) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.json"
        path.write_text(json.dumps(raw))
        yield path


def _cpu_limits() -> Limits:
    """Rough: this only exercises the code where there is no GPU."""
    a, b = (torch.randn(512, 512, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(1 << 22, dtype=torch.uint8) for _ in range(2))
    product = min(seconds_of(lambda: a @ b) for _ in range(5))
    copy = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return Limits(2 * source.nbytes / copy, 2 * 512**3 / product, None)


def seconds_of(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def run_job(parts: dict[str, Callable[[Part], None]], job_file: str, result_file: str) -> None:
    """The part that the job names; what it raises is written too."""
    job = json.loads(Path(job_file).read_text())
    deadline = time.monotonic() + job["seconds"]
    part = Part(job["device"], job["tiny"], deadline, Path(result_file))
    try:
        parts[job["part"]](part)
    except Exception as error:
        part.result["error"] = f"{type(error).__name__}: {error}"
        part.save()
        raise
