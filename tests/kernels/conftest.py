"""Kernels are tested as Triton runs them, on the GPU where there is one, else interpreted; and as
their torch references run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

from hala_kernels import backend, triton_lang

if triton_lang.AVAILABLE and not torch.cuda.is_available():
    from tests.kernels.interpreter import correct

    correct()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=["triton", "reference"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once with each implementation of every operation."""
    if request.param == "triton" and not triton_lang.AVAILABLE:
        pytest.skip("Triton has no build for this system")
    with backend.forced(request.param):
        yield request.param


@pytest.fixture
def triton_kernels() -> Iterator[None]:
    """The test runs with the Triton kernels only."""
    if not triton_lang.AVAILABLE:
        pytest.skip("Triton has no build for this system")
    with backend.forced("triton"):
        yield


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    """Random inputs of its own for each test, the same in every run."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN (integers: their largest value), so that an element which no kernel
    wrote is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)
