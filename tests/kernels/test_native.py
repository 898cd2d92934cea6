"""The C kernels as a whole: their builds, when they run, and what a result may depend on.

Each operation is held against float64 in its own test file, as implementation "native".
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from hala_kernels import activation, linear, native, norm, sample, short_conv
from hala_kernels.backend import forced
from tests.kernels.compare import assert_near
from tests.kernels.e4m3 import same_bits

ROOT = Path(__file__).parents[2]
EPS = 1e-5
TAPS = 3

built = pytest.mark.skipif(native.library() is None, reason="no C kernels for this processor")


def rms_norm(x, weight):
    return norm.rms_norm(x, weight, EPS)


def sandwich_norm(x, weight):
    options = {"plus_one": True, "input_weight": weight}
    return torch.cat(norm.add_rms_norm(x, 3 * x, weight, EPS, **options), -1)


def add_layer_norm(x, weight):
    return torch.cat(norm.add_layer_norm(x, 3 * x, weight, EPS), -1)


def gated(operation):
    return lambda x, weight: operation(x[:, : len(weight) // 2 * 2])


def conv_step(x, weight):
    """A token a sequence; y and the new states, a row for each."""
    width = len(weight) // 3
    states = x[:, : 2 * width].reshape(-1, TAPS - 1, width).clone()
    args = (x[:, : 3 * width], weight[: 3 * width].view(TAPS, width).t(), weight[:width], states)
    layout = short_conv.ConvLayout.of(torch.ones(len(x), dtype=torch.int64), TAPS)
    y = short_conv.short_conv(*args, torch.arange(len(x)), layout)
    return torch.cat((y, states.flatten(1)), 1)


def greedy(x, weight):
    return sample.sample(x, None, with_logprobs=False)[0]


OPERATIONS = {
    "rms_norm": rms_norm,
    "sandwich_norm": sandwich_norm,
    "add_layer_norm": add_layer_norm,
    "silu_mul": gated(activation.silu_mul),
    "gelu_tanh_mul": gated(activation.gelu_tanh_mul),
    "conv_step": conv_step,
    "greedy": greedy,
}
"""Of x [T, N] and a weight [N]: a result whose row t depends on row t of x alone."""

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def inputs(rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, width).to(dtype), torch.randn(width).to(dtype)


def available() -> list[str]:
    flags = native._processor_flags()
    return [name for name, needed in native._BUILDS if needed <= flags and native._path(name)]


def functions():
    """(module, name, function) of each C function that a module of ours holds."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("hala_kernels."):
            for attribute, value in vars(module).items():
                if isinstance(value, ctypes._CFuncPtr):
                    yield module, attribute, value


@pytest.fixture(params=available())
def build(request, monkeypatch) -> str:
    """The test runs with each build that this processor can."""
    library = ctypes.CDLL(str(native._path(request.param)))
    for module, attribute, theirs in functions():
        if module is linear:
            continue  # on the tile unit only, which the lesser build does not have
        ours = library[theirs.__name__]
        ours.argtypes, ours.restype = theirs.argtypes, theirs.restype
        monkeypatch.setattr(module, attribute, ours)
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@every_operation
@pytest.mark.parametrize("width", [64, 1000, 331])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_build_computes_what_the_reference_does(operation, width, dtype, build):
    x, weight = inputs(7, width, dtype)
    got = operation(x, weight)
    with forced("reference"):
        want = operation(x, weight)
    if want.dtype == torch.int64:
        assert torch.equal(got, want)
    else:
        assert_near(got, want.double(), 4e-6 if dtype == torch.float32 else 4e-3)


@every_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_depends_on_no_other_and_not_on_the_threads(operation, dtype, build, threads):
    """Bit for bit; the width leaves rows at every alignment."""
    x, weight = inputs(50, 1003, dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(operation(x, weight))
    for other in results[1:]:
        assert same_bits(other, results[0])
    for first, rows in ((0, 1), (7, 1), (11, 4), (33, 17)):
        part = operation(x[first : first + rows], weight)
        assert same_bits(part, results[0][first : first + rows].contiguous())


def test_a_long_sequence_does_not_depend_on_the_threads(build, threads):
    width = 700
    bcx, weight = inputs(300, 3 * width, torch.bfloat16)
    layout = short_conv.ConvLayout.of(torch.tensor([300]), TAPS)
    results = []
    for count in (1, 3):
        threads(count)
        states = torch.zeros(1, TAPS - 1, width, dtype=torch.bfloat16)
        args = (bcx, weight.view(TAPS, width).t(), None, states, torch.tensor([0]), layout)
        results.append((short_conv.short_conv(*args), states))
    for one, other in zip(*results, strict=True):
        assert same_bits(one, other)


def test_the_exponential_is_accurate_over_its_range(build):
    """Through silu, whose relative error is that of the exponential, or less."""
    gate = torch.linspace(-86, 88, 100_001)
    got = activation.silu_mul(torch.stack((gate, torch.ones_like(gate))).T.contiguous())
    want = gate.double() / (1 + (-gate.double()).exp())
    error = ((got[:, 0].double() - want).abs() / want.abs())[want != 0]
    assert error.max() < 3e-7
    # Of one gate and one up a row nothing is vectorised; of these, all.
    wide = activation.silu_mul(torch.cat((gate, torch.ones_like(gate))).unsqueeze(0))
    assert torch.equal(wide[0], got[:, 0])


def test_the_gate_may_be_infinitely_far(build):
    gate = torch.tensor([[-torch.inf, -3e38, -200.0, 200.0, 3e38, torch.inf, torch.nan]])
    for operation in (activation.silu_mul, activation.gelu_tanh_mul):
        got = operation(torch.cat((gate, torch.ones_like(gate)), 1))[0]
        assert got[0].isnan() and got[6].isnan()  # as torch's: -inf * 0
        assert torch.equal(got[1:6], torch.tensor([0.0, 0.0, 200.0, 3e38, torch.inf]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_nan_is_the_largest(dtype, build):
    x, weight = inputs(6, 5000, dtype)
    for row, at in enumerate(([0], [4999], [1023, 1024], [4100, 17], [3000])):
        x[row, at] = math.nan
        x[row, 100] = math.inf
    assert greedy(x, weight)[:5].tolist() == [0, 4999, 1023, 17, 3000]
    assert torch.equal(greedy(x, weight), x.max(-1).indices)


@built
@every_operation
def test_the_c_kernel_runs_on_a_cpu(operation, monkeypatch):
    calls = []
    for module, attribute, function in list(functions()):
        record = lambda *args, f=function: (calls.append(f.__name__), f(*args))  # noqa: E731
        monkeypatch.setattr(module, attribute, record)
    operation(*inputs(3, 96, torch.bfloat16))
    assert len(calls) == 1
    with forced("reference"):
        operation(*inputs(3, 96, torch.bfloat16))
    assert len(calls) == 1


@every_operation
def test_without_a_build_the_reference_runs(operation, monkeypatch):
    x, weight = inputs(5, 96, torch.bfloat16)
    with forced("reference"):
        want = operation(x, weight)
    monkeypatch.setattr(native, "library", lambda: None)
    assert native.function("hala_norm") is None
    assert same_bits(operation(x, weight), want)


def test_other_dtypes_take_the_reference():
    x, weight = inputs(5, 96, torch.bfloat16)
    for mixed in (x, weight.float()), (x.double(), weight.double()):
        with forced("reference"):
            want = rms_norm(*mixed)
        assert torch.equal(rms_norm(*mixed), want)


@pytest.fixture
def fresh_library():
    native.library.cache_clear()
    yield native.library
    native.library.cache_clear()


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512dq avx512_bf16", "_native_avx512"),
        ("avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512dq", "_native_avx2"),
        ("avx2 fma f16c bmi2", "_native_avx2"),
        ("sse4_2 avx", None),
        ("", None),
    ],
)
def test_the_processor_decides_which_build(flags, name, fresh_library, monkeypatch):
    monkeypatch.setattr(native, "_processor_flags", lambda: set(flags.split()))
    monkeypatch.setattr(native, "_path", lambda name: Path(name))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: path)
    assert fresh_library() == name


def test_a_build_that_does_not_load_is_passed_over(fresh_library, monkeypatch):
    """One of another system, or whose OpenMP symbols the torch that is here does not have."""

    def refuse(path: str):
        if "avx512" in path:
            raise OSError(f"{path}: undefined symbol: GOMP_parallel")
        return path

    everything = set().union(*(needed for _, needed in native._BUILDS))
    monkeypatch.setattr(native, "_processor_flags", lambda: everything)
    monkeypatch.setattr(native, "_path", lambda name: Path(name))
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert fresh_library() == "_native_avx2"
    monkeypatch.setattr(native, "_BUILDS", native._BUILDS[:1])
    fresh_library.cache_clear()
    assert fresh_library() is None


@built
@pytest.mark.skipif(shutil.which("objdump") is None, reason="reads machine code with objdump")
def test_each_build_holds_instructions_of_its_own_level():
    """Both are compiled from the same sources, one after the other."""
    for name in ("_native_avx512", "_native_avx2"):
        code = subprocess.run(
            ["objdump", "-d", str(native._path(name))], capture_output=True, text=True, check=True
        ).stdout
        assert "ymm" in code
        assert ("zmm" in code) == (name == "_native_avx512")


def test_every_source_is_in_both_builds():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    directory = Path("kernels/hala_kernels/native")
    extensions = config["ext-modules"]
    assert {e["name"].rpartition(".")[2] for e in extensions} == {n for n, _ in native._BUILDS}
    for extension in extensions:
        for key, suffix in (("sources", "c"), ("depends", "h")):
            found = (ROOT / directory).glob(f"*.{suffix}")
            assert sorted(extension[key]) == sorted(str(directory / p.name) for p in found)
        assert extension["optional"]


def test_a_build_of_older_sources_is_said() -> None:
    with pytest.raises(ImportError, match=r"has no hala_nothing: install the package again"):
        native.function("hala_nothing")


@pytest.mark.skipif(
    shutil.which("cc") is None
    or sys.platform != "linux"
    or "avx2" not in native._processor_flags(),
    reason="no compiler, or no processor that there are builds for",
)
def test_an_installation_with_a_compiler_has_the_kernels() -> None:
    """An extension that is optional fails without a word."""
    assert native.library() is not None
