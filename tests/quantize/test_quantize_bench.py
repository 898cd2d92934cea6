"""The benchmark runs the real command, on a checkpoint that is made small here."""

from __future__ import annotations

import json

import pytest

from bench import quantize


@pytest.mark.parametrize("scheme", ["fp8-dynamic", "fp8-block"])
def test_a_small_run_measures_both_and_cleans_up(tmp_path, monkeypatch, scheme):
    small = {"HIDDEN": 256, "WIDTH": 512, "HEADS": 2, "KV_HEADS": 1, "VOCAB": 1000}
    for name, value in small.items():
        monkeypatch.setattr(quantize, name, value)
    directory, result = tmp_path / "bench", tmp_path / "result.json"
    flags = ["--gb", "0.005", "--shard-gb", "0.002", "--repeats", "1", "--scheme", scheme]
    quantize.main([*flags, "--dir", str(directory), "--json", str(result)])
    found = json.loads(result.read_text())
    samples = {(s["what"], s["cache"]) for s in found["samples"]}
    assert samples == {(w, c) for w in ("copy", "quantize") for c in ("cold", "warm")}
    assert found["largest_tensor_bytes"] == 1000 * 256 * 2
    assert found["source_bytes"] == pytest.approx(5e6, rel=0.2)
    summary = found["summary"]
    assert 0 < summary["max_rss_bytes"] < summary["allowed_rss_bytes"]
    assert summary["warm"]["share"] > 0
    assert list(directory.iterdir()) == []
