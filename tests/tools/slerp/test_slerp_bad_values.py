"""Values that cannot be merged, wherever in a tensor: its name and file in one line, and nothing
left behind."""

import math
import threading

import ml_dtypes
import numpy as np
import pytest

from hala_tools.slerp import parts
from tests.tools.slerp.commands import (
    Pair,
    Stored,
    edited,
    run_here,
    stored,
    with_value,
)
from tests.tools.slerp.shapes import read_tensors, write_pair

EMBEDDING = "model.embed_tokens.weight"
MATRIX = "model.layers.1.self_attn.k_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
WEIGHTS = "model.safetensors"

SIDES = pytest.mark.parametrize("side", ["base", "tuned"])


def assert_names(message: str, pair: Pair, side: str, name: str) -> None:
    path = pair.model(side) / WEIGHTS
    assert message.startswith(f"{path}: tensor {name} has a value that is infinite or NaN")


@pytest.mark.parametrize(("value", "place"), [(math.nan, 0), (math.inf, -1), (-math.inf, 5)])
@pytest.mark.parametrize("name", [EMBEDDING, MATRIX, NORM, BIAS])
@SIDES
def test_a_value_that_is_not_finite(pair, refused, side, name, place, value):
    with edited(pair.model(side)) as tensors:
        tensors[name] = with_value(tensors[name], place, value)
    assert_names(refused(pair), pair, side, name)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@SIDES
def test_a_value_that_is_not_finite_in_other_dtypes(tmp_path, refused, side, dtype, value):
    models = write_pair(tmp_path, "gemma2", seed=1, layers=1, dtype=dtype)
    pair = Pair(*models, tmp_path / "out")
    with edited(pair.model(side)) as tensors:
        tensors[EMBEDDING] = with_value(tensors[EMBEDDING], 7, value)
    assert_names(refused(pair), pair, side, EMBEDDING)


@pytest.mark.parametrize("dtype", ["F64", "BF16"])
@SIDES
def test_a_scalar_that_is_not_finite(pair, refused, side, dtype):
    scalar = Stored(dtype, (), bytes(8 if dtype == "F64" else 2))
    for model in (pair.base, pair.tuned):
        with edited(model) as tensors:
            tensors["scale"] = scalar
    with edited(pair.model(side)) as tensors:
        tensors["scale"] = with_value(scalar, 0, math.nan)
    assert_names(refused(pair), pair, side, "scale")


@pytest.mark.parametrize("t", ["0", "1"])
@SIDES
def test_a_value_that_is_not_finite_where_t_leaves_it_out(pair, refused, side, t):
    with edited(pair.model(side)) as tensors:
        tensors[MATRIX] = with_value(tensors[MATRIX], 5, math.inf)
    assert_names(refused(pair, "--t", t), pair, side, MATRIX)


SIZE = 300_000
"""Elements: three blocks, the last of them not full; two parts of PART_OF_LARGE."""

PART_OF_LARGE = 200_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """One layer, and a tensor of several blocks that lie so near to each other that they are
    combined while they are measured."""
    directory = tmp_path_factory.mktemp("large")
    pair = Pair(*write_pair(directory, "lfm2", seed=1, layers=1), directory / "out")
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    for model in (pair.base, pair.tuned):
        with edited(model) as tensors:
            tensors["model.large"] = stored(values.astype(ml_dtypes.bfloat16))
    return pair


@pytest.mark.parametrize(
    "place",
    [0, parts.BLOCK - 1, parts.BLOCK, SIZE // 2, PART_OF_LARGE - 1, PART_OF_LARGE, SIZE - 1],
)
def test_a_value_that_is_not_finite_in_any_block(large, tmp_path, refused, monkeypatch, place):
    """Also in the block from the middle, by which it is guessed how to go on."""
    side = "tuned" if place % 2 else "base"
    monkeypatch.setattr(parts, "PART", PART_OF_LARGE)
    pair = large.copied_to(tmp_path)
    with edited(pair.model(side)) as tensors:
        tensors["model.large"] = with_value(tensors["model.large"], place, math.nan)
    assert_names(refused(pair), pair, side, "model.large")


@pytest.mark.parametrize("place", ["own row", "row of a common token", "row of its own token"])
def test_a_value_that_is_not_finite_among_matched_rows(tmp_path, refused, place):
    """Tokens 32 to 39 are the tuned model's alone, whose rows then stand for both."""
    models = write_pair(tmp_path, "qwen2", seed=1, layers=1, tuned_vocab=40)
    pair = Pair(*models, tmp_path / "out")
    side = "base" if place == "row of a common token" else "tuned"
    row = 35 if place == "row of its own token" else 5
    with edited(pair.model(side)) as tensors:
        tensors[EMBEDDING] = with_value(tensors[EMBEDDING], row * 16, math.nan)
    assert_names(refused(pair, "--tokenizer-source", "tuned"), pair, side, EMBEDDING)


def with_tensor(pair: Pair, name: str, base: np.ndarray, tuned: np.ndarray) -> None:
    for model, array in ((pair.base, base), (pair.tuned, tuned)):
        with edited(model) as tensors:
            tensors[name] = stored(array)


@pytest.mark.parametrize("t", ["0.5", "0.3", "1"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_largest_values_stay_finite(pair, capfd, monkeypatch, dtype, t):
    """Between two that are equal lies the same one, large as it may be."""
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.array([largest, -largest, 1, 0], dtype)
    with_tensor(pair, "scale", values, values)
    done = run_here(capfd, *pair.paths, "--t", t)
    assert done.code == 0
    with edited(pair.out) as tensors:
        merged = np.frombuffer(tensors["scale"].data, dtype).astype(np.float64)
    assert np.isfinite(merged).all()
    assert np.allclose(merged, values.astype(np.float64), rtol=1e-2)


@pytest.mark.parametrize("t", ["5", "-4", "1e308"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_factors_that_lead_out_of_the_dtypes_range(pair, refused, dtype, t):
    values = np.array([float(ml_dtypes.finfo(dtype).max) / 2, 1], dtype)
    with_tensor(pair, "scale", values, -values)
    message = refused(pair, "--t", t, "--t-filter", "model=0.5", "--t-filter", "lm_head=0.5")
    assert message.startswith("tensor scale: with t = ")
    assert "choose t within 0 and 1" in message
    if dtype is ml_dtypes.bfloat16:
        assert "--dtype bfloat16" not in message  # it is that already


def test_a_factor_beyond_all_sense(pair, refused):
    """At right angles, where its product with the angle is infinite."""
    with_tensor(pair, "scale", *np.eye(2, dtype=np.float32))
    filters = (f"--t-filter={name}=0.5" for name in ("model", "lm_head"))
    message = refused(pair, "--t", "1.7e308", *filters)
    assert "1.7e+308" in message or "1.7e308" in message


def test_values_beyond_the_dtype_that_is_asked_for(pair, refused):
    values = np.array([70_000, 1, 2], ml_dtypes.bfloat16)
    with_tensor(pair, "scale", values, values)
    message = refused(pair, "--dtype", "float16")
    assert message.startswith("tensor scale: ") and "F16" in message
    assert "choose t" not in message  # no t would help


# Tensors that are not floating-point.


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_buffers_that_are_equal_are_copied(pair, capfd, dtype):
    values = np.arange(1000).astype(dtype)
    with_tensor(pair, "steps", values, values)
    done = run_here(capfd, *pair.paths)
    assert (done.code, done.err) == (0, "")
    with edited(pair.out) as tensors:
        assert tensors["steps"] == stored(values)
    assert "copied: 1 of 28 tensors" in done.out


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_buffers_that_differ(pair, refused, monkeypatch, dtype, place):
    monkeypatch.setattr(parts, "PART", 400)
    base, tuned = np.zeros(1000, dtype), np.zeros(1000, dtype)
    tuned[place] = 1
    with_tensor(pair, "steps", base, tuned)
    message = refused(pair)
    assert message.startswith(f"tensor steps of dtype {stored(base).dtype} differs between")


def test_a_fault_is_found_among_threads_too(pair, refused, monkeypatch):
    """Where the system cannot fork, threads do the work."""
    from hala_tools.slerp import workers

    monkeypatch.setattr(workers.sys, "platform", "darwin")
    with edited(pair.tuned) as tensors:
        tensors[MATRIX] = with_value(tensors[MATRIX], 5, math.nan)
    assert_names(refused(pair), pair, "tuned", MATRIX)
    assert threading.active_count() < 10


def test_unharmed_models_are_merged(pair, capfd):
    """All of the above are refused for what was done to them, not for what they are."""
    done = run_here(capfd, *pair.paths)
    assert (done.code, done.err) == (0, "")
    assert read_tensors(pair.out).keys() == read_tensors(pair.base).keys()
