"""`hala-train --nproc N`: one process a device on this machine, and their end."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

SAVING, FAILING = 600.0, 5.0
"""Seconds that the others get after the first process ended: by a signal that all were given, or
because it failed."""


def launch(count: int, arguments: list[str]) -> int:
    """Run `python -m hala_trainer *arguments` `count` times as torchrun would; the exit code of the
    first that failed, else 0. SIGINT and SIGTERM are passed on, and end with the workers' code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // count))),
    }
    workers: list[subprocess.Popen] = []

    def pass_on(signum, _frame):
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, pass_on)
    for rank in range(count):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "hala_trainer", *arguments],
                env=os.environ | shared | place,
                preexec_fn=_end_with_launcher if sys.platform == "linux" else None,
            )
        )
    return _wait(workers)


def _end_with_launcher() -> None:
    """In a worker: a launcher that was killed is as SIGTERM, so the step is finished and saved."""
    set_parent_death_signal = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _wait(workers: list[subprocess.Popen]) -> int:
    given_up: set[subprocess.Popen] = set()
    deadline = None
    while None in [worker.poll() for worker in workers]:  # a list: all are asked
        codes = [worker.returncode for worker in workers if worker.returncode]
        if codes and deadline is None:
            # The others wait for one that will not come; those that are saving may finish.
            deadline = time.monotonic() + (SAVING if codes[0] in (130, 143) else FAILING)
        if deadline is not None and time.monotonic() > deadline:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    given_up.add(worker)
        time.sleep(0.05)
    for rank, worker in enumerate(workers):
        if worker.returncode < 0 and worker not in given_up:
            name = signal.Signals(-worker.returncode).name
            print(
                f"hala-train: process {rank} was ended by {name}"
                f"{' (out of memory?)' if name == 'SIGKILL' else ''}; the same command goes on "
                "from the last checkpoint",
                file=sys.stderr,
            )
            return 128 - worker.returncode
    return next((worker.returncode for worker in workers if worker.returncode > 0), 0)
