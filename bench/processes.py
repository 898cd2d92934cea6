"""Measuring whole processes that read and write large files: time, memory, state of the cache."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

POLL_SECONDS = 0.02

_FIELDS = {
    "VmHWM": "max_rss_bytes",
    "RssAnon": "anonymous_bytes",
    "RssFile": "file_bytes",
}


def run_measured(command: list[str]) -> dict[str, float]:
    """Seconds, of the clock and of processors, and the peaks of resident memory in bytes: all of it
    by the kernel's own record, its own and that of mapped files as polled.

    Memory is summed over the process and its children, so what forked ones share counts for each.
    The record is read from /proc while they run: that which wait4 tells counts the peak of this
    process, from before it became another, as well. Ends the program if the command fails.
    """
    with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads would fill up
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peaks = dict.fromkeys(_FIELDS.values(), 0)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            now = [_resident(pid) for pid in _family(process.pid)]
            peaks = {key: max(peaks[key], sum(m.get(key, 0) for m in now)) for key in peaks}
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {message}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, **peaks}


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return [pid]
    return [pid, *(member for child in children for member in _family(int(child)))]


def _resident(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    rows = (line.partition(":") for line in lines)
    return {_FIELDS[key]: int(value.split()[0]) * 1024 for key, _, value in rows if key in _FIELDS}


def set_cache(directory: Path, warm: bool) -> None:
    """The checkpoint's pages all in the page cache, or all out of it."""
    for path in directory.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # pages that are not on the disk yet would stay
        if warm:
            while os.read(descriptor, 1 << 24):
                pass
        else:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
