"""Judge's jobs with the fake engine, in this process."""

import json

import pytest
from fake_judge_engine import FakeJudgeEngine

from hala_engine.jobs import job
from hala_engine.judge import JudgeConfig, judge_job


@pytest.fixture
def engine(monkeypatch):
    """The engine that jobs of this test get; set its attributes to change it."""
    fake = FakeJudgeEngine()
    monkeypatch.setattr(job, "load_engine", lambda config: fake)
    return fake


@pytest.fixture
def judge(engine, tmp_path):
    """Run a job on a file in this process; returns its result."""

    def run(path, output=tmp_path / "out", **options):
        columns = {"source_column": "en", "target_column": "ar"}
        fixed = {"inputs": (str(path),), "output": str(output), "model": "fake"}
        return judge_job(JudgeConfig(**fixed, **columns | options))

    return run


@pytest.fixture
def write_rows(tmp_path):
    """A JSON lines file of these rows."""

    def write(rows, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path

    return write
