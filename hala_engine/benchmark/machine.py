"""Which machine and which software a measurement is of."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("hala-engine", "torch", "transformers", "triton")


def device_name(device: torch.device) -> str:
    """The GPU's name; of a CPU its model and the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo, model = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        model = next(names, model)
    return f"{model}, {torch.get_num_threads()} threads"


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of Python and the packages that matter; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
