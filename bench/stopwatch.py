"""Times by kind of operation: functions and methods are wrapped where a model looks them up.

C kernels are called through ctypes and are no operation of torch's, so its profiler does not see
them; the names in the layers' modules see everything.
"""

from __future__ import annotations

import functools
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import perf_counter
from typing import Any

LAYERS = ("attention", "embedding", "mlp", "norm", "quantized", "short_conv")
"""Modules of hala_engine.layers whose kernels are timed by name; linear.py's are its products."""

KINDS = {
    "norm": "norms",
    "activation": "activation",
    "short_conv": "convolution",
    "rope_cache": "rotation, cache write",
    "paged_attention": "attention",
    "prefill_attention": "attention",
    "sample": "sampling",
}
"""Module of hala_kernels -> kind of operation."""

PRODUCTS, HEAD, BATCH = "matrix products", "output projection", "making the batch"
REST = "rest of the step"


class Stopwatch:
    """`lap` collects the seconds by kind since the last; time inside another timed call is that
    one's alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []  # seconds of timed calls inside each open one

    def timed(self, kind: str, function: Callable) -> Callable:
        """`function`, with its own time under `kind`."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begin = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = perf_counter() - begin
                self._seconds[kind] += elapsed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += elapsed

        return call

    def lap(self) -> dict[str, float]:
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Models that are built and run inside are timed by kind of operation."""
    from hala_engine.layers.embedding import Vocabulary
    from hala_engine.layers.linear import Linear
    from hala_engine.layers.rotary import Rotary
    from hala_engine.runner import Runner

    names = [f"hala_engine.layers.{name}" for name in LAYERS] + ["hala_engine.runner"]
    undo: list[Callable[[], None]] = []
    try:
        for module in map(import_module, names):
            for name, value in list(vars(module).items()):
                if (timed := _timed(watch, value)) is not value:
                    undo.append(_replace(module, name, timed))
        for owner, name, kind in (
            (Linear, "forward", PRODUCTS),
            (Vocabulary, "logits", HEAD),
            (Rotary, "forward", KINDS["rope_cache"]),
            (Runner, "_batch", BATCH),
        ):
            undo.append(_replace(owner, name, watch.timed(kind, getattr(owner, name))))
        yield
    finally:
        for action in undo:
            action()


def _timed(watch: Stopwatch, value: object) -> object:
    """A kernel, or a table of kernels, timed; anything else as it is."""
    if isinstance(value, types.FunctionType):
        package, _, module = value.__module__.rpartition(".")
        is_kernel = package == "hala_kernels" and module in KINDS
        return watch.timed(KINDS[module], value) if is_kernel else value
    if isinstance(value, dict) and value and all(isinstance(v, tuple) for v in value.values()):
        table = {key: tuple(_timed(watch, v) for v in row) for key, row in value.items()}
        return table if table != value else value
    return value


def _replace(owner: object, name: str, value: object) -> Callable[[], None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)
