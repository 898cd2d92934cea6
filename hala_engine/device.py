"""Which device and dtype to run with, and how much memory is left there."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hala_engine.errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, or the CPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r} is not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch sees no CUDA device; use cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it, float32 elsewhere."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if name not in dtypes:
        raise InputError(f"dtype {name!r} is not one of auto, float32, bfloat16")
    return dtypes[name]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def multiplies_fp8(device: torch.device) -> bool:
    """Whether FP8 weights stay FP8 there: the tensor cores of sm_89 (Ada) and later take e4m3."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken: free on a GPU, available on the host."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30


def use_granted_cores() -> None:
    """Take no more threads than the process is granted cores, unless OMP_NUM_THREADS says.

    In a container torch counts the cores of the machine. Threads beyond the quota are taken off
    their cores in turn, and every matrix product waits for the last of them.
    """
    granted = _granted_cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > granted:
        torch.set_num_threads(granted)


def _granted_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """By the affinity of the process and the quota of its control group (version 2, then 1)."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return cores
    try:
        granted = int(quota) // int(period)
    except ValueError:  # "max"
        return cores
    return cores if granted < 0 else min(cores, max(1, granted))
