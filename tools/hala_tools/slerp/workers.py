"""Processes that work side by side. Threads would wait for the interpreter's lock, which the short
numpy operations here take and leave all the time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from hala_tools.slerp.errors import MergeError

_WAITING = 2
"""Processes beside one a processor, that wait for the disk while others compute."""

_MOST = 16
"""Beyond this many the disk and the memory decide."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Submit = Callable[..., Future]

_work: Callable[..., Any]


_STOPPING = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def workers(work: Callable[..., Any]) -> Iterator[Submit]:
    """A function that has `work` called with its arguments, in another process where the system can
    fork, else in a thread. `work` itself is inherited, what it is called with is pickled.

    On leaving the block what has not begun is dropped. Raises MergeError if a process was killed.
    """
    executor, call = _executor(work)
    try:
        _start(executor)
        yield lambda *arguments: executor.submit(call, *arguments)
    except BrokenProcessPool:
        raise MergeError(
            "a worker process was killed, perhaps for want of memory; nothing was written"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(work: Callable[..., Any]) -> tuple[Executor, Callable[..., Any]]:
    count = min(_processors() + _WAITING, _MOST)
    if sys.platform != "linux":
        return ThreadPoolExecutor(count), work
    global _work
    _work = work
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, fork, _begin, (os.getpid(),)), _call


def _start(executor: Executor) -> None:
    """Has all processes started. A signal has to wait: what its handler raises would be lost in the
    midst of a fork, or leave behind processes that nobody knows of."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        executor.submit(int).result()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """In a new process: the terminal's Ctrl-C is the parent's affair, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
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
