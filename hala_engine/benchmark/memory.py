"""The most memory that this process has held so far."""

from __future__ import annotations

import resource
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes: reserved on a GPU, resident (RSS) on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
