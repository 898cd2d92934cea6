"""Pairs of models, copied for each test, and the command that must refuse to merge them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.slerp.commands import Pair, refusal, run_here
from tests.tools.slerp.shapes import write_pair


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Callable[..., Pair]:
    """A function that writes a pair, once for the same arguments."""
    pairs: dict[str, Pair] = {}

    def made(kind: str, shards: int = 1) -> Pair:
        if (key := f"{kind}-{shards}") not in pairs:
            directory = tmp_path_factory.mktemp(key)
            options = {"seed": 1, "layers": 2, "base_shards": shards, "tuned_shards": shards}
            pairs[key] = Pair(*write_pair(directory, kind, **options), directory / "out")
        return pairs[key]

    return made


@pytest.fixture
def pair(made, tmp_path: Path) -> Pair:
    """Two models of two layers, each in one file, whose output projection is their own."""
    return made("qwen2").copied_to(tmp_path)


@pytest.fixture
def tied(made, tmp_path: Path) -> Pair:
    """Two whose output projection is the embedding."""
    return made("lfm2").copied_to(tmp_path)


@pytest.fixture
def sharded(made, tmp_path: Path) -> Pair:
    """Two in three files each."""
    return made("gemma2", shards=3).copied_to(tmp_path)


@pytest.fixture
def refused(capfd) -> Callable[..., str]:
    """A function that runs a merge which must be refused, and returns why it was."""

    def refused(pair: Pair, *flags: object, code: int = 2) -> str:
        return refusal(run_here(capfd, *pair.paths, *flags), pair.out, code)

    return refused
