"""`hala-engine judge` as a command: exit codes, one-line errors, flags, two processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judge_outputs import numbers, read_rows

COLUMNS = ["--source-column", "en", "--target-column", "ar"]
FAKE = Path(__file__).parent / "fake_judge_engine.py"


def start(*arguments, **fake_options):
    """`hala-engine judge` with the fake engine, running."""
    return subprocess.Popen(
        [sys.executable, str(FAKE), "judge", *map(str, arguments)],
        env=os.environ | {"FAKE_ENGINE": json.dumps(fake_options), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **fake_options):
    """The same, to its end."""
    process = start(*arguments, **fake_options)
    out, err = process.communicate(timeout=250)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def pairs(count):
    return [{"en": f"text {n}", "ar": f"نص {n} p0.{n % 9 + 1}", "n": n} for n in range(count)]


def test_help_has_an_example_and_the_flags():
    done = run("--help")
    assert done.returncode == 0
    assert "Example: hala-engine judge" in done.stdout
    for flag in ("--source-column", "--target-column", "--instruction", "--threshold"):
        assert flag in done.stdout


def test_results_go_to_stdout_and_progress_to_stderr(tmp_path, write_rows):
    arguments = [write_rows(pairs(9)), "--output", tmp_path / "out", "--model", "m", *COLUMNS]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9 rows (0 failed, 0 flags)")
    assert "5 accepted" in done.stdout and "4 rejected" in done.stdout
    assert done.stderr.startswith("rows 9/9 (100%) | ")
    again = run(*arguments)
    assert again.returncode == 0
    assert again.stdout.startswith("already complete: 9 rows")


def test_failed_rows_give_exit_code_3(tmp_path, write_rows):
    path = write_rows([*pairs(3), {"en": 5, "ar": "a", "n": 3}])
    done = run(path, "--output", tmp_path / "out", "--model", "m", *COLUMNS)
    assert done.returncode == 3
    assert done.stdout.startswith("4 rows (1 failed")


def test_flags_reach_the_job(tmp_path, write_rows):
    flags = ["--threshold", "0.85", "--verdicts", "yes, no", "--source", "fr", "--no-chat-template"]
    flags += ["--instruction", "Good?", "--format", "parquet", "--shard-rows", "4", "--limit", "9"]
    path = write_rows(pairs(20))
    done = run(path, "--output", tmp_path / "out", "--model", "m", *COLUMNS, *flags)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out/manifest.json").read_text())["config"]
    assert config["instruction"] == (
        "Good?\n\nSource (French): {source}\nTranslation (Arabic): {target}\nVerdict:"
    )
    assert (config["verdicts"], config["chat_template"]) == (["yes", "no"], False)
    assert [row["n"] for row in read_rows(tmp_path / "out", "accepted", "parquet")] == [8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "o", *COLUMNS], "Missing option '--model'"),
        (["--output", "o", "--model", "m", *COLUMNS[:2]], "Missing option '--target-column'"),
        (["--model", "m", *COLUMNS], "Missing option '--output'"),
        (["--output", "o", "--model", "m", *COLUMNS, "--threshold", "2"], "--threshold 2"),
        (["--output", "o", "--model", "m", *COLUMNS, "--verdicts", "yes"], "give two words"),
        (["--output", "o", "--model", "m", *COLUMNS, "--instruction", "{source}"], "{target}"),
        (["--output", "o", "--model", "m", *COLUMNS, "--data-parallel", "2"], "only 1 is"),
        (["--output", "o", "--model", "m", *COLUMNS], "a.jsonl: no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("a.jsonl", *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("hala-engine: error: ")
    assert message in line
    assert not (tmp_path / "o").exists()


def test_a_prompt_without_room_for_a_pair_is_refused_before_work(tmp_path, write_rows):
    arguments = [write_rows(pairs(3)), "--output", tmp_path / "out", "--model", "m", *COLUMNS]
    done = run(*arguments, "--instruction", "judge " * 512)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "of the model's 512 tokens of context, which leaves none for a pair" in line
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_refused_while_the_first_works(tmp_path, write_rows):
    path, out = write_rows(pairs(3000)), tmp_path / "out"
    arguments = [path, "--output", out, "--model", "m", *COLUMNS, "--shard-rows", 300]
    first = start(*arguments, delay=0.001)
    end = time.monotonic() + 200
    while not (out / "accepted/part-00000.jsonl").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    second = run(*arguments)
    assert second.returncode == 2
    assert "another process is writing" in second.stderr
    first.communicate(timeout=100)
    assert first.returncode == 0
    assert len(numbers(out, "accepted")) + len(numbers(out, "rejected")) == 3000
