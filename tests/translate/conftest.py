"""Jobs with the fake engine, in this process."""

import json

import pytest
from fake_engine import FakeEngine

from hala_engine.jobs import job
from hala_engine.translate import TranslateConfig, translate_job


@pytest.fixture
def engine(monkeypatch):
    """The engine that jobs of this test get; set its attributes to change it."""
    fake = FakeEngine()
    monkeypatch.setattr(job, "load_engine", lambda config: fake)
    return fake


@pytest.fixture
def translate(engine, tmp_path):
    """Run a job on a file in this process; returns its result."""

    def run(path, output=tmp_path / "out", **options):
        return translate_job(TranslateConfig(inputs=(str(path),), output=str(output), **options))

    return run


@pytest.fixture
def write_rows(tmp_path):
    """A JSON lines file of these rows."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path

    return write
