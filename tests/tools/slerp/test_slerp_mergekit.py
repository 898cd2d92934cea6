"""Merges that MergeKit made: what `python -m bench.merge_parity --golden` wrote of them."""

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from hala_tools.slerp.job import merge, prepare
from hala_tools.slerp.merge_file import read_merge_file
from tests.tools.slerp.shapes import STORED, fingerprint, read_tensors, write_pair

GOLDEN = Path(__file__).parents[2] / "data" / "mergekit"
CASES = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
ULPS = {"bfloat16": 1, "float16": 1, "float32": 8}
"""Coarsest first. Both sum in float32, in an order of their own."""

CANCELLED = {"bfloat16": 2**-12, "float16": 2**-9, "float32": 1}
"""Of numbers that are smaller than this times their tensor's root mean square, being a difference
of larger ones, an ulp is that of this size."""


def merged(name: str, directory: Path, parity: bool) -> dict:
    """What our merge of the case gives, from the same inputs and the same file."""
    case = CASES[name]
    base, tuned = write_pair(directory, **case["inputs"])
    assert {"base": fingerprint(base), "tuned": fingerprint(tuned)} == case["sha256"]
    request = read_merge_file(GOLDEN / f"{name}.yml")
    paths = {"base": str(base), "tuned": str(tuned)}
    request = replace(request, base=paths[request.base], tuned=paths[request.tuned], parity=parity)
    merge(prepare(request, directory / "out"), directory / "out")
    return read_tensors(directory / "out")


def apart(ours: dict, theirs: dict, dtype: np.dtype) -> float:
    """The largest distance in ulps of `dtype`, to which both are rounded."""
    worst = 0.0
    for name, want in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (want.dtype, want.shape), name
        got, want = (x.astype(dtype).astype(np.float64) for x in (ours[name], want))
        smallest = CANCELLED[dtype.name] * np.sqrt(np.mean(want**2))
        size = np.maximum(np.maximum(abs(got), abs(want)), smallest)
        info = ml_dtypes.finfo(dtype)
        exponent = np.maximum(np.frexp(size)[1] - 1, info.minexp)
        worst = max(worst, (abs(got - want) / np.ldexp(1.0, exponent - info.nmant)).max(initial=0))
    return worst


def limit(name: str, parity: bool) -> tuple[float, np.dtype]:
    """How many ulps of which dtype may lie between MergeKit's result and ours."""
    request = read_merge_file(GOLDEN / f"{name}.yml")
    stored = CASES[name]["inputs"].get("dtype", "bfloat16")
    dtypes = {request.dtype or stored} | ({request.rounded_to or stored} if parity else set())
    coarsest = next(name for name in ULPS if name in dtypes)
    return ULPS[coarsest], STORED[coarsest][1]


@pytest.mark.parametrize("name", CASES)
def test_parity_gives_what_mergekit_gives(name, tmp_path):
    theirs = read_tensors(GOLDEN / f"{name}.safetensors")
    ours = merged(name, tmp_path, parity=True)
    assert set(ours) == set(theirs)
    ulps, dtype = limit(name, parity=True)
    assert apart(ours, theirs, dtype) <= ulps


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case["departs"]])
def test_strict_merge_is_mergekits_where_that_follows_the_formula(name, tmp_path):
    theirs = read_tensors(GOLDEN / f"{name}.safetensors")
    ours = merged(name, tmp_path, parity=False)
    assert set(ours) == set(theirs)
    ulps, dtype = limit(name, parity=False)
    assert apart(ours, theirs, dtype) <= ulps


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["departs"]])
def test_strict_merge_differs_where_mergekit_departs_from_the_formula(name, tmp_path):
    theirs = read_tensors(GOLDEN / f"{name}.safetensors")
    ours = merged(name, tmp_path, parity=False)
    assert any(not np.array_equal(ours[name], theirs[name]) for name in theirs)
