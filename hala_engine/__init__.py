"""Hala Engine: offline batched decoding for translation, and its commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hala_engine.engine import Engine, EngineConfig, Output
    from hala_engine.logprobs import TokenLogprob
    from hala_engine.sampling import SamplingParams
    from hala_engine.stats import EngineStats

_MODULES = {
    "Engine": "engine",
    "EngineConfig": "engine",
    "EngineStats": "stats",
    "Output": "engine",
    "SamplingParams": "sampling",
    "TokenLogprob": "logprobs",
}

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Output",
    "SamplingParams",
    "TokenLogprob",
]


def __getattr__(name: str) -> object:
    """Loaded on first use: torch takes seconds, and `hala-engine --help` needs none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
