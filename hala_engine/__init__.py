"""Hala Engine: offline batched decoding for translation, and its commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hala_engine.engine import Engine, EngineConfig, EngineStats, Output
    from hala_engine.sampling import SamplingParams

__all__ = ["Engine", "EngineConfig", "EngineStats", "Output", "SamplingParams"]


def __getattr__(name: str) -> object:
    """Loaded on first use: torch takes seconds, and `hala-engine --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "sampling" if name == "SamplingParams" else "engine"
    return getattr(import_module(f"{__name__}.{module}"), name)
