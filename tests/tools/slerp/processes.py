"""hala-slerp in the background, to be watched and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.tools.slerp.commands import USERS_ENVIRONMENT, Done, Pair, command


@contextmanager
def started(pair: Pair, before: str) -> Iterator[subprocess.Popen[str]]:
    """The command under way, in a session of its own. `before`: Python that it runs first.

    Whatever is still alive of it at the end of the block is killed.
    """
    process = subprocess.Popen(
        command(*pair.paths, before=before),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=USERS_ENVIRONMENT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for left in alive(process.pid):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=10)
    return Done(process.returncode, out, err)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def alive(session: int) -> list[int]:
    """Processes of the session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in alive(process.pid) if pid != process.pid]
