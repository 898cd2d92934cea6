"""Launch configurations: data, one JSON file for a kernel and a device, looked up by shape.

    configs/<kernel>/<device>.json
    {"kernel": "silu_mul", "device": "sm_90", "capability": 90, "source": "...",
     "entries": [{"where": {"k": 2048}, "up_to": {"m": 64}, "config": {"num_warps": 4}}, ...,
                 {"config": {"num_warps": 8}}]}

`<device>` is the device's name with every run of other characters than letters and digits made
"_", else "sm_90" and the like, else "default", which must exist. The first entry whose `where`
equals the shape and whose `up_to` is not exceeded is taken; the last entry takes the rest. `source`
says where the figures come from; a file named for a device gives its compute `capability`, by which
the compile gate finds it. `bench/tune.py` writes these files; nothing searches during a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hala_kernels.backend import Device

CONFIGS = Path(__file__).parent / "configs"

Config = dict[str, int | bool]

_ENTRY_KEYS = {"where", "up_to", "config", "us", "before_us"}  # the last two: times, for the reader
_GENERIC = re.compile(r"default|sm_\d+")


@dataclass(frozen=True)
class Entry:
    where: dict[str, int]
    up_to: dict[str, int]
    config: Config

    def takes(self, shape: dict[str, int]) -> bool:
        return all(shape[key] == value for key, value in self.where.items()) and all(
            shape[key] <= value for key, value in self.up_to.items()
        )


@dataclass(frozen=True)
class Table:
    """One file's entries, in order."""

    kernel: str
    device: str
    source: str
    entries: tuple[Entry, ...]
    capability: int | None = None

    def find(self, shape: dict[str, int]) -> Entry:
        """Raises LookupError when no entry takes `shape`."""
        for entry in self.entries:
            if entry.takes(shape):
                return entry
        raise LookupError(f"configs/{self.kernel}/{self.device}.json has no entry for {shape}")


def device_key(name: str) -> str:
    """A device's name as a file name: "NVIDIA H100 80GB HBM3" -> "NVIDIA_H100_80GB_HBM3"."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def load(path: Path) -> Table:
    """Raises ValueError, with the file's name, for a file that is not as above."""
    try:
        content = json.loads(path.read_text())
        for entry in content["entries"]:
            if unknown := set(entry) - _ENTRY_KEYS:
                raise ValueError(f"an entry has {unknown.pop()!r}")
        entries = tuple(
            Entry(e.get("where", {}), e.get("up_to", {}), e["config"]) for e in content["entries"]
        )
        table = Table(
            path.parent.name, path.stem, content["source"], entries, content.get("capability")
        )
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if table.capability is None and not _GENERIC.fullmatch(table.device):
        raise ValueError(f"{path}: 'capability' is missing: no compile gate would find this file")
    return table


@lru_cache
def table_for(kernel: str, device: Device) -> Table:
    for stem in (device_key(device.name), f"sm_{device.capability}", "default"):
        path = CONFIGS / kernel / f"{stem}.json"
        if path.exists():
            return load(path)
    raise LookupError(f"no launch configuration in {CONFIGS / kernel}")


def tables_of_capability(kernel: str, capability: int) -> list[Table]:
    """Every table that a device of this compute capability may be served from.

    Raises LookupError where some device would find none, ValueError for a file that `load` refuses.
    """
    tables = {path.stem: load(path) for path in sorted((CONFIGS / kernel).glob("*.json"))}
    if "default" not in tables:
        raise LookupError(f"no default.json in {CONFIGS / kernel}")
    generic = f"sm_{capability}" if f"sm_{capability}" in tables else "default"
    return [
        table
        for stem, table in tables.items()
        if stem == generic or (table.capability == capability and not _GENERIC.fullmatch(stem))
    ]


_forced: dict[str, Config | Table] = {}


def lookup(kernel: str, device: Device, **shape: int) -> Config:
    """The launch configuration of `kernel` for a problem of `shape` on `device`."""
    if kernel in _forced:
        forced = _forced[kernel]
        return forced.find(shape).config if isinstance(forced, Table) else forced
    return _lookup(kernel, device, tuple(shape.items()))


@lru_cache(maxsize=4096)
def _lookup(kernel: str, device: Device, shape: tuple[tuple[str, int], ...]) -> Config:
    return table_for(kernel, device).find(dict(shape)).config


@contextmanager
def forcing(kernel: str, config: Config | Table) -> Iterator[None]:
    """Within the block `kernel` takes `config`, or an entry of that table, on any device."""
    before = _forced.get(kernel)
    _forced[kernel] = config
    try:
        yield
    finally:
        if before is None:
            del _forced[kernel]
        else:
            _forced[kernel] = before
