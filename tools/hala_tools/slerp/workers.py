"""Processes that work side by side. Threads would wait for the interpreter's lock, which the short
numpy operations here take and leave all the time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hala_tools.slerp.errors import MergeError

_WAITING = 2
"""Processes beside one a processor, that wait for the disk while others compute."""

_MOST = 16
"""Beyond this many the disk and the memory decide."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_STOPPING = (signal.SIGINT, signal.SIGTERM)

_work: Callable[..., Any]


@contextmanager
def workers(work: Callable[..., Any]) -> Iterator[Workers]:
    """Has `work` called in other processes where the system can fork, else in threads. `work`
    itself is inherited, what it is called with is pickled.

    On leaving the block what has not begun is dropped. Raises MergeError if a process was killed.
    """
    executor, call = _executor(work)
    with _HeldSignals() as signals:
        try:
            yield Workers(executor, call, signals)
        except BrokenProcessPool:
            raise MergeError(
                "a worker process was killed, perhaps for want of memory; nothing was written"
            ) from None
        finally:
            executor.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Workers:
    """Those of a block of `workers`."""

    _executor: Executor
    _call: Callable[..., Any]
    _signals: _HeldSignals

    def submit(self, *arguments: Any) -> Future:
        return self._executor.submit(self._call, *arguments)

    def results(self, futures: Iterable[Future]) -> Iterator[Any]:
        """What came of calls, in their order; raises what they raised, and lets signals in."""
        for future in futures:
            yield future.result()
            self._signals.let_in()


class _HeldSignals:
    """In this block signals that stop the program wait until they are let in. What their handlers
    raise would be lost in the midst of a fork, and elsewhere leave a lock of the pool taken for
    good. Blocking them does not do: numpy's threads would receive them."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._arrived: list[int] = []
        self._process = os.getpid()

    def __enter__(self) -> _HeldSignals:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in _STOPPING:
                self._handlers[number] = signal.signal(number, self._hold)
        return self

    def _hold(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:  # forked, and not yet at `_begin`
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._arrived:  # the second ends the program at once: something may hang
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._arrived.append(number)

    def let_in(self) -> None:
        if self._arrived:
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number in self._arrived[:1]:
            self._arrived.clear()
            signal.raise_signal(number)


def _executor(work: Callable[..., Any]) -> tuple[Executor, Callable[..., Any]]:
    count = min(_processors() + _WAITING, _MOST)
    if sys.platform != "linux":
        return ThreadPoolExecutor(count), work
    global _work
    _work = work
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, fork, _begin, (os.getpid(),)), _call


def _begin(parent: int) -> None:
    """In a new process: the terminal's Ctrl-C is the parent's affair, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _call(*arguments: Any) -> Any:
    return _work(*arguments)


def _processors() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
