"""`hala-train --nproc`: how its processes start, and how they end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from hala_trainer import launch as launching
from hala_trainer.launch import launch

PYTHON = sys.executable
WORKER = """#!{python}
import os, signal, sys, time
from pathlib import Path
rank, out = int(os.environ["RANK"]), Path({out!r})
def leave(name, text=""):
    (out / f"{{name}}-{{rank}}").write_text(text)
def on_term(code, after=0.0):
    def asked(signum, frame):
        time.sleep(after)
        leave("ended")
        os._exit(code)
    signal.signal(signal.SIGTERM, asked)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Stands in for a process of the run: what it does instead is given as code."""

    def make(code: str) -> None:
        script = tmp_path / "python"
        script.write_text(
            WORKER.format(python=sys.executable, out=str(tmp_path)) + textwrap.dedent(code)
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return make


def wait_for(*paths) -> None:
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_process_is_told_its_place_and_its_share_of_the_cores(worker, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    worker(
        "leave('place', ' '.join([os.environ[k] for k in KEYS] + sys.argv[1:]))".replace(
            "KEYS", "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'OMP_NUM_THREADS')"
        )
    )
    assert launch(2, ["r.toml", "train.out=a b"]) == 0
    for rank in (0, 1):
        said = (tmp_path / f"place-{rank}").read_text()
        assert said == f"{rank} {rank} 2 2 4 -m hala_trainer r.toml train.out=a b"


def test_a_failure_is_the_exit_code_and_ends_those_that_wait(worker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launching, "FAILING", 0.3)
    worker("""
        if rank == 1: sys.exit(2)
        time.sleep(100)
    """)
    began = time.monotonic()
    assert launch(2, []) == 2
    assert time.monotonic() - began < 20
    assert capsys.readouterr().err == ""  # of the one that the launcher itself ended


def test_processes_that_save_are_given_the_time(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "FAILING", 0.1)
    worker("""
        if rank == 0: sys.exit(143)
        time.sleep(1.0); leave("saved"); sys.exit(143)
    """)
    assert launch(2, []) == 143
    assert (tmp_path / "saved-1").exists()


def test_a_process_ended_by_a_signal_is_named(worker, monkeypatch, capsys):
    monkeypatch.setattr(launching, "FAILING", 0.1)
    worker("""
        if rank == 1: os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(100)
    """)
    assert launch(2, []) == 137
    assert capsys.readouterr().err == (
        "hala-train: process 1 was ended by SIGKILL (out of memory?); "
        "the same command goes on from the last checkpoint\n"
    )


def test_signals_are_passed_on(worker, tmp_path):
    worker("""
        on_term(143)
        leave("ready"); time.sleep(100)
    """)

    def send() -> None:
        wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    assert launch(2, []) == 143
    assert (tmp_path / "ended-0").exists()
    assert (tmp_path / "ended-1").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death")
def test_processes_stop_when_the_launcher_is_killed(worker, tmp_path):
    worker("""
        on_term(143)
        leave("ready"); time.sleep(100)
    """)
    fake = sys.executable
    code = f"import sys; from hala_trainer.launch import launch; sys.executable = {fake!r}\n"
    code += "launch(2, [])"
    launcher = subprocess.Popen([PYTHON, "-c", code])
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    launcher.kill()
    launcher.wait()
    wait_for(tmp_path / "ended-0", tmp_path / "ended-1")
