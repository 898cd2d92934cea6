"""Scoring drives the public command and counts rightly."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hala_tools.miniature import score

PAIRS = [("The house is big.", "البيت كبير."), ("The car is new.", "السيارة جديدة.")]


@pytest.fixture
def command(monkeypatch):
    """Stands in for `hala-engine translate`: answers from a table, last row first."""
    answers = dict(PAIRS) | {ar: en for en, ar in PAIRS}
    calls = []

    def fake(arguments, **_):
        calls.append(arguments)
        source = Path(arguments[4])
        column = f"text_{arguments[arguments.index('--target') + 1]}"
        data = Path(arguments[arguments.index("--output") + 1]) / "data"
        data.mkdir(parents=True)
        rows = [json.loads(line) for line in source.open(encoding="utf-8")]
        lines = [json.dumps({**row, column: answers[row["text"]]}) for row in reversed(rows)]
        (data / "part-00000.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(score.subprocess, "run", fake)
    return calls


def test_perfect_translations_score_100_both_ways(command, tmp_path):
    heldout = tmp_path / "heldout.jsonl"
    rows = [json.dumps({"en": en, "ar": ar, "template": "t"}) for en, ar in PAIRS]
    heldout.write_text("\n".join(rows) + "\n", encoding="utf-8")
    results = score.run("some-model", heldout, None, None, tmp_path / "scores" / "out.json")
    assert set(results) == {"held-out en-ar", "held-out ar-en"}
    for result in results.values():
        assert result["exact"] == 100
        assert result["metrics"]["chrF++"]["score"] == 100
        assert "nw:2" in result["metrics"]["chrF++"]["signature"]
    assert json.loads((tmp_path / "scores" / "out.json").read_text())["model"] == "some-model"
    assert command[0][1:4] == ["-m", "hala_engine.cli", "translate"]
    assert "Translate from English to Arabic: {text}" in command[0]
    assert "Translate from Arabic to English: {text}" in command[1]


def test_several_translations_are_several_references(command):
    pairs = [*PAIRS, ("The house is big.", "إن البيت كبير.")]
    result = score.score_set("m", pairs, "en", "ar")
    assert result["sentences"] == 2
    assert result["exact"] == 100


def test_failed_rows_count_as_empty():
    result = score.measure(["البيت كبير.", ""], [["البيت كبير."], ["السيارة جديدة."]])
    assert result["exact"] == 50
    assert result["metrics"]["chrF++"]["score"] < 100


def test_failed_command_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(score.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=2))
    with pytest.raises(score.ScoreError, match="ended with exit code 2"):
        score.score_set("missing", PAIRS, "en", "ar")


def test_broken_heldout_file_is_refused(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"en": "x"}\n', encoding="utf-8")
    with pytest.raises(score.ScoreError, match=r"broken\.jsonl: not a file of held-out pairs"):
        score.read_heldout(path)
