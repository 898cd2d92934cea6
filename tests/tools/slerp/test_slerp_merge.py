"""Whole merges: every tensor against SLERP in float64, and the result in `transformers` and in the
engine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import torch as torch_files
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hala_engine import Engine, SamplingParams
from hala_tools.slerp import parts, workers
from hala_tools.slerp.job import merge, prepare
from hala_tools.slerp.merge_flags import parse_factor
from hala_tools.slerp.request import Request
from tests.tools.slerp.oracle import slerp
from tests.tools.slerp.shapes import read_tensors, write_pair

SHIPPED = Path(__file__).parents[3] / "hala_engine" / "assets" / "hala-mini-en-ar"
ULPS = {"bfloat16": 0.51, "float16": 0.51, "float32": 4}
"""Half of one is what rounding to the nearest leaves. Sums in float32 cost such a result more."""


def run(base: Path, tuned: Path, out: Path, t: str = "0.5", filters=(), **options):
    request = Request(str(base), str(tuned), parse_factor(t, filters), **options)
    return merge(prepare(request, out), out)


def assert_slerp(base: Path, tuned: Path, out: Path, report) -> None:
    """That every tensor of `out` is what the formula gives for the t that the report says."""
    before, after, found = read_tensors(base), read_tensors(tuned), read_tensors(out)
    assert set(found) == set(before)
    for tensor in report.tensors:
        name, got = tensor.name, found[tensor.name]
        wanted = slerp(before[name], after[name], tensor.t)
        assert wanted.ulps(got, [got.dtype]).max(initial=0) <= ULPS[got.dtype.name], name


def write_model(directory: Path, **tensors: np.ndarray) -> Path:
    """A model directory with these tensors and little else."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "none"}')
    save_file(tensors, directory / "model.safetensors")
    return directory


def merged(tmp_path: Path, base: np.ndarray, tuned: np.ndarray, t: str = "0.5", **options):
    """The one tensor that comes of these two, and what is reported of it."""
    base = write_model(tmp_path / "base", x=base)
    tuned = write_model(tmp_path / "tuned", x=tuned)
    report = run(base, tuned, tmp_path / "out", t, **options)
    return load_file(tmp_path / "out" / "model.safetensors")["x"], report.tensors[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", ["lfm2", "gemma2", "qwen2"])
@pytest.mark.parametrize(
    ("t", "filters"),
    [
        ("0.5", []),
        ("0", []),
        ("1", []),
        ("0.3", ["self_attn=0,0.5,0.3,0.7,1", "mlp=1,0.5,0.7,0.3,0", "feed_forward=1,0"]),
        ("-0.25,1.25", ["norm=0.9"]),
    ],
)
def test_every_tensor_is_the_formulas(tmp_path, kind, dtype, t, filters):
    base, tuned = write_pair(tmp_path, kind, seed=7, dtype=dtype, base_shards=2, tuned_shards=3)
    report = run(base, tuned, tmp_path / "out", t, filters)
    assert_slerp(base, tuned, tmp_path / "out", report)
    assert {"linear", "slerp"} <= {tensor.method for tensor in report.tensors}


def test_t_0_is_the_base_and_t_1_the_tuned_model_bit_for_bit(tmp_path):
    base, tuned = write_pair(tmp_path, "lfm2", seed=3)
    for t, source in (("0", base), ("1", tuned)):
        run(base, tuned, tmp_path / t, t)
        wanted, found = read_tensors(source), read_tensors(tmp_path / t)
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


def test_gradient_runs_over_the_layers_and_all_else_takes_its_start(tmp_path):
    base, tuned = write_pair(tmp_path, "qwen2", seed=3, layers=5)
    report = run(base, tuned, tmp_path / "out", "0,1", ["mlp=0.25"])
    for tensor in report.tensors:
        if tensor.layer is None:
            assert tensor.t == 0, tensor.name
        else:
            assert tensor.t == (0.25 if ".mlp." in tensor.name else tensor.layer / 4), tensor.name


@pytest.mark.parametrize("edge", ["zero_base", "zero_tuned", "identical", "opposite", "obtuse"])
def test_edges_follow_the_formula(tmp_path, edge):
    name = "model.layers.1.feed_forward.w1.weight"
    base, tuned = write_pair(tmp_path, "lfm2", seed=5, **{edge: name})
    report = run(base, tuned, tmp_path / "out", "0.25")
    assert_slerp(base, tuned, tmp_path / "out", report)
    (tensor,) = (tensor for tensor in report.tensors if tensor.name == name)
    assert tensor.method == ("slerp" if edge == "obtuse" else "linear")
    before, after = read_tensors(base)[name], read_tensors(tmp_path / "out")[name]
    quarter = before.astype(np.float32) / 4
    wanted = {
        "zero_tuned": before.astype(np.float32) - quarter,
        "identical": before.astype(np.float32),
        "opposite": before.astype(np.float32) / 2,
    }
    if edge in wanted:
        assert np.array_equal(after, wanted[edge].astype(after.dtype))


def test_subnormal_numbers_are_kept(tmp_path):
    name = "model.layers.0.feed_forward.w1.weight"
    for dtype in ("bfloat16", "float16"):
        base, tuned = write_pair(tmp_path / dtype, "lfm2", seed=5, dtype=dtype, subnormal=name)
        report = run(base, tuned, tmp_path / dtype / "out", "0.25")
        assert_slerp(base, tuned, tmp_path / dtype / "out", report)
        assert np.any(read_tensors(tmp_path / dtype / "out")[name] != 0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1023,), (1025,), (3, 0), (0,)])
def test_scalars_and_odd_and_empty_shapes(tmp_path, shape):
    random = np.random.default_rng(0)
    base, tuned = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    found, tensor = merged(tmp_path, base, tuned, "0.3")
    assert found.shape == shape
    wanted = slerp(base, tuned, 0.3)
    assert wanted.ulps(found, [found.dtype]).max(initial=0) <= ULPS["float32"]
    assert tensor.shape == shape


@pytest.mark.parametrize("edge", [-1, 0, 1])
@pytest.mark.parametrize("unit", ["ROW", "BLOCK", "PART"])
def test_sizes_about_the_edges_of_rows_blocks_and_parts(tmp_path, monkeypatch, unit, edge):
    monkeypatch.setattr(parts, "BLOCK", 2048)
    monkeypatch.setattr(parts, "PART", 4096)
    monkeypatch.setattr(parts._Buffers, "_thread", type(parts._Buffers._thread)())
    size = {"ROW": 1024, "BLOCK": 2048, "PART": 3 * 4096}[unit] + edge
    random = np.random.default_rng(size)
    base = random.standard_normal(size).astype(np.float32)
    tuned = base + random.standard_normal(size).astype(np.float32)
    found, _ = merged(tmp_path, base, tuned, "0.7")
    assert slerp(base, tuned, 0.7).ulps(found, [found.dtype]).max() <= ULPS["float32"]


@pytest.mark.parametrize("scale", [1e25, 3e37])
def test_squares_beyond_float32_do_not_lose_the_angle(tmp_path, scale):
    random = np.random.default_rng(0)
    base, tuned = (random.uniform(-1, 1, 5000).astype(np.float32) * scale for _ in range(2))
    found, tensor = merged(tmp_path, base.astype(np.float32), tuned.astype(np.float32))
    exact = slerp(base, tuned, 0.5)
    assert np.allclose(found, exact.values, rtol=1e-5, atol=scale * 1e-6)
    assert tensor.method == "slerp"


@pytest.mark.parametrize("alike", ["middle", "rest"])
def test_sample_that_misleads_changes_nothing(tmp_path, monkeypatch, alike):
    """The middle of the tensor, which is sampled, says another thing than the whole."""
    random = np.random.default_rng(0)
    size = 6 * parts.BLOCK
    base = random.standard_normal(size).astype(np.float32)
    noise = np.full(size, 1e-4 if alike == "rest" else 0.3, np.float32)
    middle = slice((size - parts.BLOCK) // 2, (size + parts.BLOCK) // 2)
    noise[middle] = 1e-4 if alike == "middle" else 0.07
    tuned = base + noise * random.standard_normal(size).astype(np.float32)
    found, tensor = merged(tmp_path, base, tuned, "0.3")
    assert slerp(base, tuned, 0.3).ulps(found, [found.dtype]).max() <= ULPS["float32"]
    assert tensor.method == ("slerp" if alike == "middle" else "linear")


def test_number_of_processes_changes_no_byte(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(parts, "PART", 4096)
    base = random.standard_normal(100_000).astype(np.float32)
    tuned = base + random.standard_normal(100_000).astype(np.float32) / 3
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr(workers, "_processors", lambda count=count: count)
        values, _ = merged(tmp_path / str(count), base, tuned, "0.3")
        found.append(values.tobytes())
    assert len(set(found)) == 1


def test_threads_where_the_system_cannot_fork_give_the_same_bytes(tmp_path, monkeypatch):
    base, tuned = write_pair(tmp_path, "gemma2", seed=9)
    run(base, tuned, tmp_path / "forked")
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    run(base, tuned, tmp_path / "threads")
    assert read_bytes(tmp_path / "forked") == read_bytes(tmp_path / "threads")


def read_bytes(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_float64_is_computed_in_float64(tmp_path):
    random = np.random.default_rng(0)
    base, tuned = (random.standard_normal(3000) for _ in range(2))
    found, _ = merged(tmp_path, base, tuned, "0.3")
    assert found.dtype == np.float64
    assert np.allclose(found, slerp(base, tuned, 0.3).values, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("base_dtype", "tuned_dtype", "asked", "result"),
    [
        ("bfloat16", "float32", None, "float32"),
        ("float16", "bfloat16", None, "float32"),
        ("bfloat16", "float32", "bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "float32"),
        ("float32", "float32", "float16", "float16"),
    ],
)
def test_dtypes_in_and_out(tmp_path, base_dtype, tuned_dtype, asked, result):
    base, tuned = write_pair(tmp_path, "lfm2", seed=4, dtype=base_dtype, tuned_dtype=tuned_dtype)
    report = run(base, tuned, tmp_path / "out", "0.4", dtype=asked)
    assert_slerp(base, tuned, tmp_path / "out", report)
    assert {tensor.dtype.name for tensor in read_tensors(tmp_path / "out").values()} == {result}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == result
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert str(loaded.dtype) == f"torch.{result}"


@pytest.mark.parametrize("kind", ["lfm2", "gemma2", "qwen2"])
def test_transformers_loads_the_result_with_every_weight(tmp_path, kind):
    base, tuned = write_pair(tmp_path, kind, seed=6)
    request = Request(str(base), str(tuned), parse_factor("0.5", []), shard_bytes=10_000)
    merge(prepare(request, tmp_path / "out"), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    model, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True
    )
    assert not any(loading.values()), loading
    weights = model.state_dict()
    for name, wanted in read_tensors(tmp_path / "out").items():
        assert np.array_equal(weights[name].float().numpy(), wanted.astype(np.float32)), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("cab")) == "cab"


def test_engine_translates_with_the_result(tmp_path):
    """The shipped model and a copy with noise, some of it past where SLERP is linear: what is
    midway between them still translates."""
    tuned = tmp_path / "tuned"
    shutil.copytree(SHIPPED, tuned)
    random = np.random.default_rng(0)
    weights = torch_files.load_file(tuned / "model.safetensors")
    for name, weight in weights.items():
        noise = torch.from_numpy(random.standard_normal(weight.shape).astype(np.float32))
        size = 0.04 if "feed_forward" in name else 0.01
        weights[name] = (weight.float() * (1 + size * noise)).to(weight.dtype)
    torch_files.save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    report = run(SHIPPED, tuned, tmp_path / "out")
    assert {"linear", "slerp"} == {tensor.method for tensor in report.tensors}
    assert_slerp(SHIPPED, tuned, tmp_path / "out", report)
    prompt = "Translate from English to Arabic: Read the third book."
    params = SamplingParams(max_new_tokens=16)
    texts = []
    for model in (SHIPPED, tmp_path / "out"):
        engine = Engine(str(model))
        (output,) = engine.generate([[{"role": "user", "content": prompt}]], params)
        texts.append(output.text)
    assert texts == ["اقرأ الكتاب الثالث."] * 2


def test_buffers_that_are_equal_are_copied(tmp_path):
    steps = np.arange(7, dtype=np.int64)
    found, tensor = merged(tmp_path, steps, steps)
    assert np.array_equal(found, steps)
    assert (tensor.method, tensor.t, tensor.cosine) == ("copied", None, None)


def test_memory_does_not_grow_with_the_tensors(tmp_path):
    """Sources of 200 MB each, of one tensor: parent and workers stay under 100 MB, what they have
    mapped included."""
    values = np.zeros(100_000_000, ml_dtypes.bfloat16)
    for name in ("base", "tuned"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text('{"model_type": "none"}')
        entry = {"dtype": "BF16", "shape": [values.size], "data_offsets": [0, values.nbytes]}
        header = json.dumps({"x": entry}).encode()
        with (directory / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            values.tofile(file)
    script = (
        "import resource, sys\n"
        "from hala_tools.slerp.cli import run\n"
        "assert run() == 0\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "base", tmp_path / "tuned"]
    done = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True, check=True)
    peaks = [int(line) * 1024 for line in done.stdout.splitlines()[-2:]]
    assert max(peaks) < 100e6
