"""Which implementation runs, and how a kernel is launched."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hala_kernels import backend, triton_lang
from hala_kernels.backend import INTERPRETER, Device, forced, launch, launching_with, standing_in


@pytest.fixture
def imported_with(monkeypatch):
    """The module as a process would import it with that HALA_KERNELS."""

    def load(value: str) -> ModuleType:
        monkeypatch.setenv("HALA_KERNELS", value)
        spec = spec_from_file_location("backend_again", backend.__file__)
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "backend_again", module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize(
    ("value", "on_cpu"), [("auto", False), ("", False), ("reference", False), ("triton", True)]
)
def test_the_environment_chooses(value, on_cpu, imported_with):
    assert imported_with(value).use_triton(torch.ones(1)) is on_cpu


def test_an_unknown_choice_is_refused_with_the_known_ones(imported_with):
    expected = "HALA_KERNELS must be one of auto, reference, triton, not 'fast'"
    with pytest.raises(ValueError, match=expected):
        imported_with("fast")
    with pytest.raises(ValueError, match=expected), forced("fast"):
        pass


def test_the_device_decides_unless_forced():
    cpu, cuda = torch.ones(1), SimpleNamespace(is_cuda=True)
    chosen = {}
    for choice in backend.CHOICES:
        with forced(choice):
            chosen[choice] = (backend.use_triton(cpu), backend.use_triton(cuda))
    assert chosen == {
        "auto": (False, True),
        "reference": (False, False),
        "triton": (True, True),
    }


def test_forcing_ends_with_its_block_even_by_an_exception():
    before = backend._choice
    with pytest.raises(KeyError), forced("reference"):
        raise KeyError
    assert backend._choice == before


def test_a_stand_in_is_the_device_of_every_tensor():
    x, h100 = torch.ones(1), Device("sm_90", 90, 132)
    assert backend.device_of(x) == INTERPRETER and not INTERPRETER.has_descriptors
    with standing_in(h100):
        assert backend.device_of(x) == h100 and h100.has_descriptors
    assert backend.device_of(x) == INTERPRETER
    assert not Device("sm_89", 89, 58).has_descriptors


def test_an_empty_grid_launches_nothing():
    launched = []
    with launching_with(lambda kernel, grid, *args, **options: launched.append((grid, options))):
        for grid in ((0,), (3, 0), (0, 2, 1)):
            launch(None, grid, torch.ones(1), num_warps=4)
        launch(None, (2, 1), torch.ones(1), num_warps=4)
    assert launched == [((2, 1), {"num_warps": 4})]
    assert backend._launcher is backend._run


def test_without_triton_a_launch_says_what_to_install(monkeypatch):
    monkeypatch.setattr(triton_lang, "AVAILABLE", False)
    with pytest.raises(RuntimeError, match="pip install triton"):
        launch(None, (1,), torch.ones(1))


COMPILED_ON_CPU = """
import torch
from hala_kernels import activation, backend
with backend.forced("triton"):
    activation.silu_mul(torch.ones(1, 4))
"""


@pytest.mark.skipif(not triton_lang.AVAILABLE, reason="Triton has no build for this system")
def test_a_cpu_tensor_needs_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", COMPILED_ON_CPU],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert "needs TRITON_INTERPRET=1" in done.stderr.splitlines()[-1]


def test_a_kernel_gets_its_arguments_and_options():
    calls = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: calls.append((grid, args, options))

    if not triton_lang.AVAILABLE:
        pytest.skip("Triton has no build for this system")
    x = torch.ones(2)
    descriptor = SimpleNamespace(base=x)  # as a tensor descriptor has it
    launch(Kernel(), (4,), descriptor, 7, num_stages=2)
    assert calls == [((4,), (descriptor, 7), {"num_stages": 2})]
