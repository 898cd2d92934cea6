"""Facts about the machine and the software that a result means nothing without."""

import os
import platform
import resource
import subprocess
from pathlib import Path
from typing import Any

from hala_engine.benchmark.machine import versions as installed_versions

PACKAGES = (
    "hala-engine",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "llama-cpp-python",
    "gguf",
)
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def usable_cores() -> int:
    """The cores this process may use: a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "/".join(
            fields.get(key, "?") for key in ("cpu family", "model", "stepping")
        ),
        "cores": usable_cores(),
        "features": [name for name in CPU_FEATURES if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


class ForeignLoad:
    """Share of the processors that others used while a child process ran.

    Two threads that meet at a barrier lose many times a busy neighbour's share, so a timing taken
    beside other work says little. `share` is None where the system does not tell.
    """

    def __init__(self) -> None:
        self._busy, self._all = _cpu_seconds()
        self._children = _children_seconds()

    def share(self) -> float | None:
        busy, everything = _cpu_seconds()
        if everything == self._all:
            return None
        own = _children_seconds() - self._children
        return max(0.0, (busy - self._busy - own) / (everything - self._all))


def _cpu_seconds() -> tuple[float, float]:
    """Busy and total processor seconds of the whole machine since it started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0
    # user nice system idle iowait irq softirq steal
    ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in stat.read_text().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def versions() -> dict[str, str]:
    return dict.fromkeys(PACKAGES, "not installed") | installed_versions(PACKAGES)


def commit() -> dict[str, Any]:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}
