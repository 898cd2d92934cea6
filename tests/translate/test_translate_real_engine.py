"""The promises about crashes and bad models, with the real command, engine and a random LFM2."""

import json
import signal
import subprocess
import sys
import time

import pytest
from translate_jobs import read_rows, result_bytes, wait_for

from tests.tiny_lfm2 import write_tiny_lfm2

COMMAND = [sys.executable, "-m", "hala_engine.cli", "translate"]
ROWS, SHARD_ROWS = 2000, 250


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    return write_tiny_lfm2(
        path, "Translate from English to Arabic: row says hello", vocab=320, context=256
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "rows.jsonl"
    lines = [{"text": f"Row {i} says hello{' and more' * (i % 9)}", "n": i} for i in range(ROWS)]
    lines[3]["text"] = "A long row. " * 60
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def arguments(rows, model, output, *flags):
    fixed = ["--max-new-tokens", "6", "--shard-rows", str(SHARD_ROWS), "--dtype", "float32"]
    return [*COMMAND, str(rows), "--model", str(model), "--output", str(output), *fixed, *flags]


def run(*args):
    return subprocess.run(arguments(*args), capture_output=True, text=True, timeout=250)


def started(output, shards, *args):
    """The command, running, once so many shards are there."""
    process = subprocess.Popen(arguments(*args), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(output.glob("data/part-*"))) >= shards, process)
    return process


@pytest.mark.parametrize("flags", [(), ("--deterministic",)], ids=["plain", "deterministic"])
def test_kill_three_times_and_rerun_gives_the_bytes_of_an_unbroken_run(
    tmp_path, rows, model, flags
):
    unbroken = run(rows, model, tmp_path / "unbroken", *flags)
    assert unbroken.returncode == 0, unbroken.stderr
    out = tmp_path / "out"
    for shards, wait in ((1, 0.03), (3, 0.11), (6, 0.07)):
        process = started(out, shards, rows, model, out, *flags)
        time.sleep(wait)
        process.kill()
        process.communicate()
        assert not (out / "manifest.json").exists()
    assert run(rows, model, out, *flags).returncode == 0
    assert result_bytes(out) == result_bytes(tmp_path / "unbroken")
    written = read_rows(out)
    assert [row["n"] for row in written] == list(range(ROWS))
    assert len({row["text_ar"] for row in written}) > 10


def test_sigterm_stops_soon_and_the_job_resumes(tmp_path, rows, model):
    process = started(tmp_path / "out", 1, rows, model, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 5
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("hala-engine: stopped by SIGTERM")


def spoil_weights(path):
    (path / "model.safetensors").unlink()


def spoil_architecture(path):
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (path / "config.json").write_text(json.dumps(config))


def spoil_all(path):
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_architecture, spoil_all])
def test_a_bad_model_is_one_line_and_nothing_is_left(tmp_path, rows, model, spoil):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    spoil(broken)
    done = run(rows, broken, tmp_path / "out")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("hala-engine: error: ")
    assert "broken" in line or "Mamba" in line
    assert not (tmp_path / "out").exists()
