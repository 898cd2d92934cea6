"""Scaling of the real command on a few rows, and the verdict's arithmetic."""

import json
from pathlib import Path

import pytest

from bench.engine_scaling import main, sentences, summarize


def test_jobs_of_two_sizes_are_translated_and_measured(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    arguments = ["--rows", "8,3", "--repeats", "1", "--dir", str(tmp_path / "work")]
    main([*arguments, "--json", str(target)])
    result = json.loads(target.read_text())
    assert [s["rows"] for s in result["samples"]] == [3, 8]
    for sample in result["samples"]:
        assert sample["rows_written"] == sample["rows"]
        assert 0 < sample["job_seconds"] < sample["seconds"]
        assert sample["max_rss_bytes"] > 100e6
        assert sample["output_tokens"] >= sample["rows"]
    assert list((tmp_path / "work").iterdir()) == []


def test_sentences_are_distinct_and_the_same_every_time() -> None:
    few = sentences(50)
    assert len(set(few)) == 50
    assert sentences(200)[:50] == few


def sample(rows: int, seconds: float, rss: float) -> dict:
    return {"rows": rows, "seconds": seconds + 1, "job_seconds": seconds, "max_rss_bytes": rss}


@pytest.mark.parametrize(
    ("seconds", "rss", "met"), [(100, 4e8, True), (120, 4e8, False), (100, 6e8, False)]
)
def test_speed_and_memory_must_hold(seconds: float, rss: float, met: bool) -> None:
    summary = summarize([sample(100, 10, 4e8), sample(100, 30, 4e8), sample(100, 8, 4e8)])
    assert summary["by_rows"][0]["job_rows_per_s"] == 10 and summary["met"]
    summary = summarize([sample(100, 10, 4e8), sample(1000, seconds, rss)])
    assert summary["met"] is met
    assert summary["by_rows"][1]["process_rows_per_s"] == pytest.approx(1000 / (seconds + 1))
