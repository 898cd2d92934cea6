"""One pass over a part of a tensor: read both sources, measure, combine, write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from hala_tools.slerp.checkpoint import DTYPES
from hala_tools.slerp.errors import InputError
from hala_tools.slerp.plan import Merge
from hala_tools.slerp.sphere import ROW, Moments, combine, moments
from hala_tools.slerp.vocabulary import AlignedRows
from hala_tools.slerp.writer import Writer

PART = 1 << 22
"""Elements of a tensor that are mapped at a time."""

BLOCK = 1 << 17
"""Elements that are floating point at a time: few enough for a core's own cache."""

_SAMPLE = 1 << 14
_CACHE_LINE = 64

Weights = tuple[float, float]


def parts_of(merge: Merge) -> list[range]:
    """The tensor's elements, PART at a time."""
    size = merge.spec.size
    return [range(start, min(start + PART, size)) for start in range(0, size, PART)]


@dataclass(frozen=True)
class Passes:
    """What is done with parts of tensors."""

    merges: tuple[Merge, ...]
    writer: Writer

    def __call__(self, number: int, part: range, weights: Weights | None, measure: bool) -> Moments:
        """The moments of a part of tensor `number`, if `measure`; with `weights` it is combined and
        written. A tensor without t is copied.

        Raises InputError, naming the tensor, for values that are not finite and for copies that
        differ.
        """
        merge = self.merges[number]
        if merge.t is None:
            self._copy(merge, part)
            return Moments()
        total = Moments()
        write = self._writing(merge, weights) if weights is not None else None
        with np.errstate(over="ignore", invalid="ignore"):
            for block, a, b in self._blocks(merge, part):
                bounded = False
                if measure:
                    here = moments(a, b)
                    bounded = here.finite
                    total += here if bounded else _measure_anew(merge, a, b)
                if write is not None:
                    write(block, a, b, bounded)
        return total

    def sample(self, number: int) -> Moments:
        """The moments of some elements from the middle of tensor `number`."""
        merge = self.merges[number]
        start = max(0, (merge.spec.size - _SAMPLE) // 2)
        part = range(start, min(start + _SAMPLE, merge.spec.size))
        with np.errstate(over="ignore", invalid="ignore"):
            return sum((moments(a, b) for _, a, b in self._blocks(merge, part)), Moments())

    def _blocks(self, merge: Merge, part: range) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """Blocks of the part and the two sources' values there, in memory that the next block takes
        over; zeros fill them up to a multiple of ROW."""
        sources = merge.base, merge.tuned
        values = [source.read(part.start, part.stop) for source in sources]
        buffers = _Buffers.of_thread(_real(merge)).sources
        for start in range(part.start, part.stop, BLOCK):
            block = range(start, min(start + BLOCK, part.stop))
            here = slice(start - part.start, block.stop - part.start)
            padded = -(-len(block) // ROW) * ROW
            for whole, buffer in zip(values, buffers, strict=True):
                np.copyto(buffer[: len(block)], whole[here], casting="unsafe")
                buffer[len(block) : padded] = 0
            yield block, *(_rounded(buffer[:padded], merge) for buffer in buffers)

    def _writing(
        self, merge: Merge, weights: Weights
    ) -> Callable[[range, np.ndarray, np.ndarray, bool], None]:
        """A function that combines the blocks of the two sources and writes the result."""
        dtype = DTYPES[merge.spec.dtype]
        buffers = _Buffers.of_thread(_real(merge))
        may_overflow = _may_overflow(merge, weights)

        def write(block: range, a: np.ndarray, b: np.ndarray, bounded: bool) -> None:
            result = buffers.result(dtype, len(block))
            combined = _rounded(combine(a, b, weights, bounded), merge)
            np.copyto(result, combined[: len(block)], casting="unsafe")
            if may_overflow and not np.isfinite(result).all():
                raise _out_of_range(merge)
            self._write(merge, result, block.start)

        return write

    def _copy(self, merge: Merge, part: range) -> None:
        a, b = (source.read(part.start, part.stop) for source in (merge.base, merge.tuned))
        if not np.array_equal(a.view(np.uint8), b.view(np.uint8)):
            raise InputError(
                f"tensor {merge.spec.name} of dtype {merge.spec.dtype} differs between the two "
                "models; only floating-point tensors can be interpolated"
            )
        self._write(merge, a, part.start)

    def _write(self, merge: Merge, values: np.ndarray, start: int) -> None:
        data = values.view(np.uint8).data
        self.writer.write(merge.spec.name, data, start * values.itemsize)


def _rounded(values: np.ndarray, merge: Merge) -> np.ndarray:
    if merge.rounded_to is not None:
        values[:] = values.astype(DTYPES[merge.rounded_to])
    return values


def _real(merge: Merge) -> np.dtype:
    """What is computed in."""
    dtypes = merge.base.dtype, merge.tuned.dtype, merge.spec.dtype
    return np.dtype(np.float64 if "F64" in dtypes else np.float32)


def _out_of_range(merge: Merge) -> InputError:
    mend = "choose t within 0 and 1"
    if 0 <= merge.t <= 1:
        mend = "give --dtype bfloat16" if merge.spec.dtype == "F16" else "give no --dtype"
    return InputError(
        f"tensor {merge.spec.name}: with t = {merge.t:g} the result leaves the range of "
        f"{merge.spec.dtype}; {mend}"
    )


def _measure_anew(merge: Merge, a: np.ndarray, b: np.ndarray) -> Moments:
    """In float64, what was not finite. Raises InputError if it is the values that are not."""
    sources = [(a, merge.base), (b, merge.tuned)]
    # Rows that one model lacks are the other's, which is then to blame.
    for values, source in sorted(sources, key=lambda pair: isinstance(pair[1], AlignedRows)):
        if not np.isfinite(values).all():
            raise InputError(
                f"{source.path}: tensor {merge.spec.name} has a value that is infinite or NaN; "
                "take a checkpoint that was saved whole"
            )
    return moments(a.astype(np.float64), b.astype(np.float64))


def _may_overflow(merge: Merge, weights: Weights) -> bool:
    """False for a mean in a dtype that holds all that the sources' dtypes do."""
    largest = [
        float(ml_dtypes.finfo(DTYPES[dtype]).max)
        for dtype in (merge.spec.dtype, merge.base.dtype, merge.tuned.dtype)
    ]
    return min(weights) < 0 or sum(weights) > 1 or largest[0] < max(largest)


class _Buffers:
    """A thread's memory for blocks. Aligned to cache lines: twice as fast as numpy's own."""

    _thread = threading.local()

    def __init__(self, real: np.dtype) -> None:
        self.sources = _aligned(BLOCK, real), _aligned(BLOCK, real)
        self._result = _aligned(BLOCK * 8, np.dtype(np.uint8))

    @classmethod
    def of_thread(cls, real: np.dtype) -> _Buffers:
        buffers = cls._thread.__dict__
        if real.name not in buffers:
            buffers[real.name] = cls(real)
        return buffers[real.name]

    def result(self, dtype: np.dtype, size: int) -> np.ndarray:
        """[size] of `dtype`."""
        return self._result[: size * dtype.itemsize].view(dtype)


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    memory = np.zeros(size * dtype.itemsize + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size * dtype.itemsize].view(dtype)
