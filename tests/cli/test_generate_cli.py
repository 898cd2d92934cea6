"""The `generate` command: its flags, exit codes and one-line errors, and what a signal leaves."""

import signal
import subprocess
import sys
import time

import pytest

from hala_engine import EngineConfig, SamplingParams
from hala_engine.completions import job
from hala_engine.errors import InputError
from tests.completions.json_lines import read_rows, write_rows

MODEL = ("--model", "hala-mini-en-ar")
HOUSE = "Translate from English to Arabic: The big house is near the river."
FILM = "Translate from English to Arabic: Did you see the new film?"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Missing option '--output'"),
        (["--output", "o.parquet"], "end the name in .jsonl"),
        (["--output", "no/o.jsonl"], "there is no directory no"),
        (["--output", "o.jsonl", "--n", "2"], "--temperature above 0"),
        (["--output", "o.jsonl", "--n", "0"], "--n 0: must be 1 or more"),
        (["--output", "o.jsonl", "--limit", "0"], "--limit 0: must be 1 or more"),
        (["--output", "o.jsonl", "--logprobs", "-1"], "logprobs must be 0 or above"),
        (["--output", "o.jsonl", "--top-p", "2"], "top_p must be above 0"),
        (["--output", "o.jsonl", "--system", "x"], "--system needs --chat"),
        (
            ["--output", "o.jsonl", "--prompt-column", "a", "--messages-column", "b"],
            "not both",
        ),
        (["--output", "o.jsonl", "--messages-column", "b", "--chat"], "messages are chat already"),
        (["--output", "o.jsonl", "--tensor-parallel", "2"], "only 1 is supported"),
        (["--output", "o.jsonl", "--dtype", "int4"], "int4"),
        (["--output", "o.jsonl", "--max-batch-size", "0"], "max_batch_size must be at least 1"),
        (["--output", "o.jsonl", "--kv-cache-dtype", "fp4"], "fp4"),
        (["--output", "o.jsonl", "--model", "nowhere"], "no model directory at nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "The"}])
    done = command("generate", "rows.jsonl", *MODEL, *flags)
    assert done.code == 2 and message in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_command_from_end_to_end(command, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"q": HOUSE}, {"q": FILM}, {"q": None}])
    out = tmp_path / "out.jsonl"
    arguments = ("generate", rows, "--output", out, *MODEL, "--prompt-column", "q", "--chat")
    flags = ("--max-new-tokens", "20", "--logprobs", "1", "--no-prefix-caching", "--dtype")
    done = command(*arguments, *flags, "float32")
    assert done.code == 3
    assert done.stdout.startswith(f"3 rows in {out}, 1 failed: {tmp_path / 'out.failures.jsonl'}; ")
    assert done.stderr.startswith("rows 3/3 (100%) | ")
    written = read_rows(out)
    assert written[0]["completion"] == "البيت الكبير قرب النهر."
    assert written[1]["_hala"]["logprobs"][0]["top"]
    again = command(*arguments)
    assert again.code == 2 and "exists; give another --output, or --overwrite" in again.error
    assert read_rows(out) == written
    stopped = command(*arguments, "--overwrite", "--stop", "الكبير", "--limit", "1")
    assert stopped.code == 0
    assert [row["completion"] for row in read_rows(out)] == ["البيت "]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_flags_reach_the_engine(command, tmp_path, monkeypatch):
    seen = {}

    def load(config):
        seen["engine"] = EngineConfig(**config.engine.given())
        seen["params"] = config.params(None)
        raise InputError("enough")

    monkeypatch.setattr(job, "load_engine", load)
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    flags = (
        "--max-new-tokens 7 --temperature 0.5 --top-p 0.9 --top-k 8 --min-p 0.1 --seed 3 "
        "--repetition-penalty 1.1 --stop x --stop y --logprobs 4 --device cpu --dtype float32 "
        "--kv-cache-dtype fp8 --max-batch-size 5 --max-batched-tokens 77 "
        "--memory-utilization 0.25 --deterministic --no-prefix-caching"
    )
    command("generate", rows, "--output", tmp_path / "o.jsonl", *MODEL, *flags.split())
    assert seen["engine"] == EngineConfig(
        device="cpu",
        dtype="float32",
        kv_cache_dtype="fp8",
        max_batch_size=5,
        max_batched_tokens=77,
        memory_utilization=0.25,
        deterministic=True,
        prefix_caching=False,
    )
    assert seen["params"] == SamplingParams(
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=8,
        min_p=0.1,
        repetition_penalty=1.1,
        stop=("x", "y"),
        logprobs=4,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stopped_run_leaves_nothing(tmp_path, name):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "The"}] * 200_000)
    (tmp_path / "o.jsonl").write_text("of an earlier run\n")
    arguments = ["generate", rows, "--output", tmp_path / "o.jsonl", *MODEL, "--overwrite"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hala_engine.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    temporary = tmp_path / ".o.jsonl.tmp"
    deadline = time.monotonic() + 60
    while not (temporary.exists() and temporary.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.Signals[name]
    line = stderr.splitlines()[-1]
    assert (
        line == f"hala-engine: stopped by {name}; nothing was written, the same command begins anew"
    )
    assert (tmp_path / "o.jsonl").read_text() == "of an earlier run\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "rows.jsonl"]


def test_an_unknown_choice_of_kernels_is_one_line_and_exit_code_2(tmp_path):
    probe = [sys.executable, "-m", "hala_engine.cli", "generate", "x", "--output", "o", *MODEL]
    environment = {"HALA_KERNELS": "wrong", "PATH": "/usr/bin"}
    done = subprocess.run(probe, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        "hala-engine: error: HALA_KERNELS must be one of auto, reference, triton, not 'wrong'\n"
    )
