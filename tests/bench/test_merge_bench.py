"""The benchmarks of the merge, in small: the real command and `cp` on tiny checkpoints, the pair
that is written for them, the arithmetic of the verdict, and what MergeKit is held against."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import merge, merge_pair
from bench.merge_cases import Case, cases
from bench.merge_parity import LIMITS_APART, PARITY, PLAIN, compare, expected
from tests.tools.slerp.layouts import small_dims, tensor_shapes
from tests.tools.slerp.oracle import LINEAR_ABOVE
from tests.tools.slerp.shapes import fingerprint, read_tensors, write_pair

GOLDEN = Path(__file__).parents[1] / "data" / "mergekit"


def test_a_small_run_measures_each_peer_in_turn_and_cleans_up(tmp_path: Path) -> None:
    directory, target = tmp_path / "work", tmp_path / "result.json"
    flags = ["--tiny", "--peers", "copy,hala", "--repeats", "2"]
    merge.main([*flags, "--dir", str(directory), "--json", str(target)])
    result = json.loads(target.read_text())
    assert [(s["cache"], s["what"]) for s in result["samples"]] == [
        *(("cold", "copy"), ("cold", "hala"), ("warm", "copy"), ("warm", "hala")),
        *(("cold", "hala"), ("cold", "copy"), ("warm", "hala"), ("warm", "copy")),
    ]
    for sample in result["samples"]:
        assert sample["result_bytes"] == pytest.approx(result["source_bytes"], rel=0.1)
        assert sample["seconds"] > 0 and sample["sync_seconds"] > 0
    ours = result["summary"]["warm"]["peers"]["hala"]
    assert 10e6 < ours["anonymous_bytes"] < ours["max_rss_bytes"] < 300e6
    assert result["summary"]["cold"]["on_disk"]["share_of_floor"] > 0
    assert result["summary"]["cold"]["on_disk"]["speedup_over_mergekit"] is None
    assert list(directory.iterdir()) == []


def test_the_pair_lies_on_both_sides_of_the_threshold(tmp_path: Path) -> None:
    dims = replace(small_dims(), vocab=3000, attention=(1, 3))
    base, tuned = (read_tensors(path) for path in merge_pair.write(tmp_path, dims))
    cosines = []
    for name, shape in tensor_shapes("lfm2", dims).items():
        assert base[name].shape == tuned[name].shape == shape
        a, b = (tensors[name].astype(np.float64).ravel() for tensors in (base, tuned))
        cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    linear = sum(cosine > LINEAR_ABOVE for cosine in cosines)
    assert linear > len(cosines) / 2 and len(cosines) - linear > len(cosines) / 10


def test_a_tensor_longer_than_the_pool_repeats_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(merge_pair, "POOL", 100)
    base, _ = merge_pair.write(tmp_path, small_dims(vocab=40))
    embedding = read_tensors(base)["model.embed_tokens.weight"].ravel()
    assert len(set(embedding[:100].tolist())) > 50
    assert (embedding[100:] == embedding[:-100]).all()


def test_lfm2_1_2b_has_its_size() -> None:
    count = sum(spec.bytes // 2 for spec in merge_pair.specs_of(merge_pair.LFM2_1_2B).values())
    assert count == 1_170_340_608


def samples(what: str, seconds: tuple[float, ...], sync: float, own: float = 5e8) -> list[dict]:
    peaks = {"anonymous_bytes": own, "file_bytes": 1e9, "max_rss_bytes": own + 1e9}
    rest = {"cpu_seconds": 1.0, "sync_seconds": sync, "what": what, **peaks}
    return [{"seconds": s, "cache": cache, **rest} for s in seconds for cache in merge.CACHES]


def test_both_ways_of_counting_are_compared_by_medians() -> None:
    copy, theirs = samples("copy", (1, 9, 1), sync=1), samples("mergekit", (20, 24, 90), sync=2)
    summary = merge.summarize([*copy, *theirs, *samples("hala", (3, 3.9, 4.1), sync=0)])
    as_is, on_disk = summary["warm"]["as_is"], summary["warm"]["on_disk"]
    assert as_is["floor_seconds"] == 1.5 and on_disk["floor_seconds"] == 3
    assert as_is["speedup_over_mergekit"] == pytest.approx(24 / 3.9)
    assert on_disk["speedup_over_mergekit"] == pytest.approx(26 / 3.9)
    assert as_is["met"] == {"speedup": True, "floor": False}
    assert on_disk["met"] == {"speedup": True, "floor": True}
    assert summary["memory"]["met"] and not summary["met"]


@pytest.mark.parametrize(("seconds", "own", "met"), [(2, 5e8, True), (2, 2e9, False)])
def test_every_target_must_be_met(seconds: float, own: float, met: bool) -> None:
    copy, theirs = samples("copy", (1,), sync=0), samples("mergekit", (20,), sync=0)
    summary = merge.summarize([*copy, *theirs, *samples("hala", (seconds,), sync=0, own=own)])
    assert summary["met"] is met


@pytest.mark.parametrize("case", [c for c in cases() if c.golden], ids=lambda case: case.name)
def test_mergekit_agrees_with_the_float64_that_follows_it(tmp_path: Path, case: Case) -> None:
    entry = json.loads((GOLDEN / "manifest.json").read_text())["cases"][case.name]
    assert entry["inputs"] == {"kind": case.kind, **case.inputs}
    base, tuned = write_pair(tmp_path, **entry["inputs"])
    assert entry["sha256"] == {"base": fingerprint(base), "tuned": fingerprint(tuned)}
    theirs = read_tensors(GOLDEN / f"{case.name}.safetensors")
    for mode in (PARITY,) if case.departs else (PARITY, PLAIN):
        seen = []
        for name, exact, dtypes in expected(case, mode, tmp_path):
            assert exact.ulps(theirs[name], dtypes).max() <= LIMITS_APART[dtypes[-1].name], name
            seen.append(name)
        assert sorted(seen) == list(theirs)


def test_a_result_of_other_values_is_told_from_mergekits(tmp_path: Path) -> None:
    case = next(case for case in cases() if case.name == "lfm2_half")
    base, _ = write_pair(tmp_path, case.kind, **case.inputs)
    row = compare(case, PLAIN, tmp_path, base, GOLDEN / "lfm2_half.safetensors")
    assert row.failed and row.mergekit == pytest.approx(0.5, abs=0.01) and row.ours > 1
    row = compare(case, PLAIN, tmp_path, *[GOLDEN / "lfm2_half.safetensors"] * 2)
    assert not row.failed and row.same == 1
