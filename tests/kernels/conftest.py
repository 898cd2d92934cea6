"""Kernels are tested as Triton runs them, on the GPU where there is one, else interpreted; as their
torch references run; and, where an operation has one, as its C kernel runs on the CPU."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

from hala_kernels import backend, native, triton_lang

if triton_lang.AVAILABLE and not torch.cuda.is_available():
    from tests.kernels.interpreter import correct

    correct()


HAVE_C_KERNELS = {
    "test_activation",
    "test_norm",
    "test_paged_attention",
    "test_prefill_attention",
    "test_rope_cache",
    "test_sample",
    "test_short_conv",
}
"""Test files whose `implementation` may be "native" too."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "implementation" in metafunc.fixturenames:
        name = metafunc.module.__name__.rpartition(".")[2]
        known = ["triton", "reference"] + ["native"] * (name in HAVE_C_KERNELS)
        metafunc.parametrize("implementation", known, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the test's tensors are: C kernels want the CPU, others the GPU where there is one."""
    names = request.fixturenames
    native_only = (
        "implementation" in names and request.getfixturevalue("implementation") == "native"
    )
    return torch.device("cuda" if torch.cuda.is_available() and not native_only else "cpu")


@pytest.fixture
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once with each implementation of every operation."""
    if request.param == "triton" and not triton_lang.AVAILABLE:
        pytest.skip("Triton has no build for this system")
    if request.param == "native" and native.library() is None:
        pytest.skip("no C kernels were built, or none for this processor")
    with backend.forced("auto" if request.param == "native" else request.param):
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
