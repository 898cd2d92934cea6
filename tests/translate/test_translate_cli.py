"""Exit codes and one-line errors of the command."""

import json
import os
import pty
import resource
import subprocess
import sys

import pytest
from fake_engine import FakeStats
from translate_jobs import read_rows, run_command, start_command

from hala_engine.jobs import progress

COMMAND = [sys.executable, "-m", "hala_engine.cli"]


def command(*arguments):
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100)


def test_help_is_quick_and_loads_nothing_heavy():
    probe = (
        "import sys; import hala_engine.cli; "
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout == "[]\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    help_text = command("translate", "--help").stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1
    assert "Example: hala-engine translate" in help_text
    assert "--max-segment-tokens" in help_text


def test_version():
    assert command("--version").stdout.startswith("hala-engine 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "a.jsonl"], "Missing option '--output'"),
        (["translate", "a.jsonl", "--output", "o", "--colums", "a"], "No such option: --colums"),
        (["translate", "a.jsonl", "--output", "o", "--limit", "x"], "--limit"),
        (
            ["translate", "a.jsonl", "--output", "o", "--tensor-parallel", "2"],
            "only 1 is supported",
        ),
        (["translate", "a.jsonl", "--output", "o", "--shard", "2"], "give I/N"),
        (["translate", "a.jsonl", "--output", "o", "--temperature", "-1"], "temperature"),
        (["translate", "a.jsonl", "--output", "o", "--dtype", "int4"], "--dtype 'int4'"),
        (["translate", "a.jsonl", "--output", "o"], "a.jsonl: no such file"),
        (["translate", "hf://some/set", "--output", "o"], "hf://some/set"),
        (["translte"], "No such command 'translte'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("hala-engine: error: ")
    assert message in line
    assert not (tmp_path / "o").exists()


BAD_FILES = {
    "empty.jsonl": (b"", "no rows"),
    "broken.jsonl": (b'{"text": "a"}\n{"text" "b"}\n', "broken.jsonl:2: broken JSON"),
    "column.csv": (b"txt,n\na,1\n", "no column 'text'; it has 'txt', 'n'; did you mean 'txt'?"),
    "cut.jsonl": (b'{"text": "a', "(Unterminated string starting at column 10)"),
    "one.json": (b'{\n "text": "a"\n}\n', "an object must be on one line, or in an array"),
    "wide.json": ('[{"text": "a"}]'.encode("utf-16"), "it looks like UTF-16"),
    "mac.csv": (b"text,n\ra,1\r", "mac.csv:1: a carriage return outside quotes"),
    "latin.txt": (b"caf\xe9 au lait", "latin.txt:1: not UTF-8 at byte 3"),
    "not.parquet": (b"text", "not a readable parquet file"),
    "table.xlsx": (b"", "unknown kind of file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    done = command("translate", tmp_path / name, "--output", tmp_path / "out")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    done = command("translate", tmp_path, "--output", tmp_path.with_name("out"))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "rows.jsonl: not a plain file" in line


def test_results_go_to_stdout_and_progress_to_stderr(tmp_path, write_rows):
    done = run_command(write_rows([{"text": "Hello"}] * 3), "--output", tmp_path / "out")
    assert done.returncode == 0
    assert done.stdout.startswith("3 rows (0 failed, 0 flags) in ")
    assert done.stderr.startswith("rows 3/3 (100%) | ")
    again = run_command(write_rows([{"text": "Hello"}] * 3), "--output", tmp_path / "out")
    assert again.returncode == 0
    assert again.stdout.startswith("already complete: 3 rows")


def test_flags_reach_the_job(tmp_path, write_rows):
    path = write_rows([{"q": "a b c d", "a": "e"}])
    flags = ["--columns", "q, a", "--max-new-tokens", "2", "--stop", "x", "--stop", "y"]
    assert run_command(path, "--output", tmp_path / "out", *flags).returncode == 0
    [row] = read_rows(tmp_path / "out")
    assert row["q_ar"].count(" ") == 1
    config = json.loads((tmp_path / "out/manifest.json").read_text())["config"]
    assert config["generation"]["stop"] == ["x", "y"]
    assert config["columns"] == ["q", "a"]


def test_an_unexpected_error_is_one_line_and_debug_shows_the_traceback(tmp_path, write_rows):
    path = write_rows([{"text": "Hello"}])
    bad = {"no_such_option": 1}
    done = run_command(path, "--output", tmp_path / "out", **bad)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("hala-engine: internal error: TypeError")
    done = run_command(path, "--output", tmp_path / "out", "--debug", **bad)
    assert "Traceback" in done.stderr


def test_progress_lines_without_a_terminal(tmp_path, write_rows, monkeypatch, capfd):
    meter = progress.Meter(total=100, done=20)
    log = progress.LogProgress(meter)
    monkeypatch.setattr(progress.time, "monotonic", lambda: meter._start + 20)
    log.update(20, FakeStats(prompt_tokens=4000, output_tokens=2000))
    log.update(21, FakeStats())
    [line] = capfd.readouterr().err.splitlines()
    assert line == (
        "rows 40/100 (40%) | ETA 0:01:00 | 1.0 rows/s | in 200 tok/s | out 100 tok/s | batch 8/8 | "
        "cache 50%"
    )


def test_a_bar_on_a_terminal(tmp_path, write_rows):
    path = write_rows([{"text": f"Row {i}"} for i in range(20)])
    parent, child = pty.openpty()
    process = start_command(path, "--output", tmp_path / "out", stderr=child)
    assert process.wait(timeout=30) == 0
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    assert "rows 20/20 (100%) | ETA 0:00:00" in shown


def test_a_signal_that_python_drops_stops_the_command_all_the_same():
    """An exception raised in a finaliser is dropped, and a signal may arrive in one."""
    program = """
import os, signal, sys, time
import typer
from hala_engine.cli.exits import run

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

app = typer.Typer()

@app.command()
def work():
    thing = Dropped()
    del thing
    time.sleep(20)

sys.exit(run(app))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1].startswith("hala-engine: stopped by SIGTERM")
