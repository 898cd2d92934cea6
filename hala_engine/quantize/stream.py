"""Carries a plan out: bytes of a source file in, bytes of the new file out, a few MB at a time.

Threads read, convert and write chunks side by side, each with buffers of its own that live as long
as it does: the disk is busy while weights are converted, and memory does not grow with the tensors.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hala_engine.errors import InputError, JobError
from hala_engine.quantize.e4m3 import Quantizer, SquaredError
from hala_engine.quantize.plan import METADATA, FilePlan, Plan
from hala_engine.weights.writer import DTYPES, SafetensorsWriter
from hala_kernels.quantize import FP8

CHUNK_BYTES = 4 << 20
SYNC_BYTES = 256 << 20
"""Source bytes between two requests to put what was written on the disk, so that the end of a file
need not wait for all of it."""

Progress = Callable[[int], None]
"""Told the source bytes that were finished since the last call."""

# unsigned bits of a dtype; the magnitude from which on a value is infinite or NaN
_BITS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


@dataclass(frozen=True)
class Chunk:
    """Bytes `start` to `stop` of the source tensor `name`; whole rows if it is quantized."""

    name: str
    start: int
    stop: int


def stream(plan: Plan, source: Path, target: Path, progress: Progress) -> dict[str, SquaredError]:
    """Write the files of `plan` into `target`; returns the error of each quantized module.

    Raises InputError for a value that is not finite, JobError when a file shrinks meanwhile and
    OSError when the disk is full.
    """
    errors = {module: SquaredError() for module in plan.modules}
    threads = torch.get_num_threads() + 2  # some wait for the disk while others compute
    with _serial_operations(), ThreadPoolExecutor(threads) as pool:
        for file in plan.files:
            with (
                (source / file.name).open("rb") as reader,
                SafetensorsWriter(target / file.name, file.written, METADATA) as writer,
                _background_sync(writer) as sync,
            ):
                work = _FileWork(plan, file, reader.fileno(), writer, source / file.name)
                with closing(_in_parallel(pool, work, threads)) as results:
                    for chunk, error in results:
                        if error is not None:
                            errors[file.quantized[chunk.name]].add(error)
                        sync(chunk.stop - chunk.start)
                        progress(chunk.stop - chunk.start)
    return errors


def _in_parallel(
    pool: ThreadPoolExecutor, work: _FileWork, threads: int
) -> Iterator[tuple[Chunk, SquaredError | None]]:
    """Every chunk of a file and what `work` returned, in order. Once it is closed, no thread works
    on the file any more."""
    waiting: deque[tuple[Chunk, Future]] = deque()
    try:
        for chunk in work.chunks():
            work.announce(chunk)
            waiting.append((chunk, pool.submit(work, chunk)))
            if len(waiting) > 2 * threads:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
    finally:
        for _, future in waiting:
            future.cancel()
        wait([future for _, future in waiting])


class _FileWork:
    """What a thread does with one chunk of a file."""

    def __init__(
        self, plan: Plan, file: FilePlan, reader: int, writer: SafetensorsWriter, path: Path
    ) -> None:
        self.block = plan.scheme.block
        self.file = file
        self.reader = reader
        self.writer = writer
        self.path = path
        self._of_thread = threading.local()

    def chunks(self) -> Iterator[Chunk]:
        for name, source in self.file.sources.items():
            step = CHUNK_BYTES
            if name in self.file.quantized:
                unit = source.spec.bytes // source.spec.shape[0] * (self.block or 1)
                step = max(unit, CHUNK_BYTES // unit * unit)
            for start in range(0, source.spec.bytes, step):
                yield Chunk(name, start, min(start + step, source.spec.bytes))

    def announce(self, chunk: Chunk) -> None:
        """Have the system begin to read what will be wanted soon."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            start = self.file.sources[chunk.name].start + chunk.start
            size = chunk.stop - chunk.start
            os.posix_fadvise(self.reader, start, size, os.POSIX_FADV_WILLNEED)

    def __call__(self, chunk: Chunk) -> SquaredError | None:
        """The squared error of the chunk, None if it is only copied."""
        buffers = self._buffers()
        data = buffers.source(chunk.stop - chunk.start)
        self._read(chunk, data)
        if chunk.name in self.file.quantized:
            return self._quantize(chunk, data, buffers)
        dtype = self.file.sources[chunk.name].spec.dtype
        if _has_non_finite(data.numpy(), dtype):
            raise self._not_finite(chunk.name)
        self.writer.write(chunk.name, data.numpy().data, chunk.start)
        return None

    def _quantize(self, chunk: Chunk, data: torch.Tensor, buffers: _Buffers) -> SquaredError:
        spec = self.file.sources[chunk.name].spec
        width = spec.shape[1]
        first_row = chunk.start // (width * spec.itemsize)
        weight = data.view(DTYPES[spec.dtype]).view(-1, width)
        q = buffers.result(weight.numel()).view(weight.shape)
        try:
            scale, error = buffers.quantizer.quantize(weight, q.view(FP8))
        except ValueError:
            raise self._not_finite(chunk.name) from None
        self.writer.write(chunk.name, q.numpy().data, first_row * width)
        name = f"{self.file.quantized[chunk.name]}.weight_scale"
        row_bytes = scale.shape[1] * scale.itemsize
        scale_row = first_row // (self.block or 1)
        data = scale.contiguous().view(torch.uint8).numpy().data
        self.writer.write(name, data, scale_row * row_bytes)
        return error

    def _read(self, chunk: Chunk, data: torch.Tensor) -> None:
        rest = data.numpy().data
        position = self.file.sources[chunk.name].start + chunk.start
        while rest:
            count = os.preadv(self.reader, [rest], position)
            if not count:
                raise JobError(f"{self.path}: ends inside tensor {chunk.name}; it was cut off")
            rest, position = rest[count:], position + count

    def _not_finite(self, name: str) -> InputError:
        return InputError(
            f"{self.path}: tensor {name} has a value that is infinite or NaN; "
            "take a checkpoint that was saved whole"
        )

    def _buffers(self) -> _Buffers:
        if not hasattr(self._of_thread, "buffers"):
            self._of_thread.buffers = _Buffers(self.block)
        return self._of_thread.buffers


class _Buffers:
    """A thread's memory: source bytes, results, and the quantizer's own."""

    def __init__(self, block: int | None) -> None:
        self.quantizer = Quantizer(block)
        self._source = torch.empty(0, dtype=torch.uint8)
        self._result = torch.empty(0, dtype=torch.uint8)

    def source(self, size: int) -> torch.Tensor:
        """[size] uint8."""
        if self._source.numel() < size:
            self._source = torch.empty(size, dtype=torch.uint8)
        return self._source[:size]

    def result(self, size: int) -> torch.Tensor:
        """[size] uint8."""
        if self._result.numel() < size:
            self._result = torch.empty(size, dtype=torch.uint8)
        return self._result[:size]


def _has_non_finite(data: np.ndarray, dtype: str) -> bool:
    """Two reductions over the bits and no temporary array: as signed integers the largest is the
    largest positive value, as unsigned the largest negative one's magnitude, with its sign bit."""
    kind, infinity = _BITS[dtype]
    bits = data.view(kind)
    signed = data.view(f"i{bits.itemsize}")
    sign_bit = 1 << (8 * bits.itemsize - 1)
    return bool(signed.max() >= infinity or bits.max() >= sign_bit + infinity)


@contextmanager
def _background_sync(writer: SafetensorsWriter) -> Iterator[Callable[[int], None]]:
    """A function to tell of finished bytes: now and then it has them put on the disk, beside the
    work."""
    unsynced, running = 0, None

    def sync(finished: int) -> None:
        nonlocal unsynced, running
        unsynced += finished
        if unsynced >= SYNC_BYTES and (running is None or running.done()):
            unsynced, running = 0, syncer.submit(writer.sync)

    with ThreadPoolExecutor(1) as syncer:
        yield sync


@contextmanager
def _serial_operations() -> Iterator[None]:
    """Each thread computes alone: torch's threads inside an operation would only wait in turns."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
