"""`hala-train --nproc N`: one process a device on this machine, and their end."""

import os
import signal
import socket
import subprocess
import sys
import time

GRACE = 60.0  # seconds from the first failure, or from a repeated signal, to SIGKILL


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
            )
        )
    return _wait(workers)


def _wait(workers: list[subprocess.Popen]) -> int:
    code, deadline = 0, None
    while any(worker.poll() is None for worker in workers):
        failed = [w.returncode for w in workers if w.returncode]
        if failed and not code:
            # The others wait for one that will not come; those that are saving may finish.
            code = failed[0]
            deadline = time.monotonic() + (GRACE if code in (130, 143) else 5)
        if deadline and time.monotonic() > deadline:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
            deadline = None
        time.sleep(0.05)
    code = code or next((w.returncode for w in workers if w.returncode), 0)
    return code if code >= 0 else 128 - code
