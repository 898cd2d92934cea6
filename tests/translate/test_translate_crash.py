"""Whatever stops a job and whenever, the same command ends it with the bytes of an unbroken run."""

import errno
import itertools
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from translate_jobs import (
    FAKE_COMMAND,
    command_env,
    result_bytes,
    run_command,
    start_command,
    wait_for,
)

from hala_engine.errors import JobError
from hala_engine.jobs import storage

ROWS, SHARD_ROWS = 2000, 250


def big_job(write_rows):
    rows = [{"text": f"Row {i} says hello {i % 300} times.", "n": i} for i in range(ROWS)]
    rows[700]["text"] = 5
    rows[1300]["text"] = "explode"
    return write_rows(rows)


def arguments(path, output, shard_rows=SHARD_ROWS):
    return [path, "--output", output, "--shard-rows", shard_rows]


def shards_in(output):
    return len(list((output / "data").glob("part-*"))) if (output / "data").exists() else 0


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_kill_at_three_random_moments(tmp_path, write_rows, invariant):
    path = big_job(write_rows)
    engine = {"invariant": invariant}
    assert run_command(*arguments(path, tmp_path / "unbroken"), **engine).returncode == 3
    out = tmp_path / "out"
    moments = random.Random(f"{invariant}")
    for shards in (1, 3, 5):
        process = start_command(*arguments(path, out), delay=0.0005, **engine)
        wait_for(lambda shards=shards: shards_in(out) >= shards, process)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert not (out / "manifest.json").exists()
    assert run_command(*arguments(path, out), **engine).returncode == 3
    assert result_bytes(out) == result_bytes(tmp_path / "unbroken")


KILLS = 54
POINTS = {"output": 150, "commit": 90, "before rename": 4, "after rename": 4, "anywhere": 0}
"""Where a process kills itself, and by the how many-th time at most; or it is killed from here."""


def kill_once(out, path, point, number, moment, **engine):
    """Start the job and kill it there; False when it had ended before."""
    crash = {} if point == "anywhere" else {"point": point, "number": number}
    delay = 0.001 if point == "anywhere" else 0
    process = start_command(*arguments(path, out, 100), crash=crash, delay=delay, **engine)
    if point == "anywhere":
        plan = out / ".progress/plan.json"
        wait_for(plan.exists, process)
        time.sleep(moment)
        process.kill()
    process.communicate(timeout=200)
    assert process.returncode in (-signal.SIGKILL, 3)
    return process.returncode != 3


def kill_at_the_manifest(out, path, point, **engine):
    process = start_command(
        *arguments(path, out, 100), crash={"point": point, "of": "manifest.json"}, **engine
    )
    process.communicate(timeout=200)
    return process.returncode == -signal.SIGKILL


def test_more_than_fifty_kills_of_one_job(tmp_path, write_rows):
    """With an engine whose answers depend on their neighbours and are often spoilt."""
    lines = [
        {"text": f"Row {i} calls `f({i})`\nfrom {{place}} with ${i % 40}$ words", "n": i}
        for i in range(ROWS)
    ]
    lines[700]["text"] = 5
    path = write_rows(lines)
    engine = {"invariant": False, "careless": True, "block_batches": 4}
    assert run_command(*arguments(path, tmp_path / "unbroken", 100), **engine).returncode == 3
    out, chance = tmp_path / "out", random.Random(6)
    kinds = Counter()
    for kill in range(KILLS):
        point = list(POINTS)[kill % len(POINTS)]
        number = chance.randint(1, max(1, POINTS[point]))
        kinds[point] += kill_once(out, path, point, number, chance.uniform(0, 0.15), **engine)
    assert not (out / "manifest.json").exists()
    # The last file of a job, too, is cut off before and after its rename.
    for point in ("before rename", "after rename"):
        kinds[point] += kill_at_the_manifest(out, path, point, **engine)
    assert run_command(*arguments(path, out, 100), **engine).returncode == 3
    assert result_bytes(out) == result_bytes(tmp_path / "unbroken")
    assert kinds.total() >= 50


class PowerCut(BaseException):
    pass


def cut_power_after(engine, outputs):
    """The engine gives so many outputs and then crashes."""
    generate = FakeEngine.generate

    given = itertools.count()

    def crashing(prompts, params, *, ordered=True):
        for output in generate(engine, prompts, params, ordered=ordered):
            if next(given) == outputs:
                raise PowerCut
            yield output

    engine.generate = crashing


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_what_an_interrupted_shard_had_done(
    tmp_path, translate, engine, write_rows, invariant, monkeypatch
):
    """With a batch-invariant engine every result is kept, otherwise every block of 8."""
    monkeypatch.setattr("hala_engine.jobs.blocks.BLOCK_BATCHES", 1)
    path = write_rows([{"text": f"Row number {i}"} for i in range(40)])
    engine.invariant = invariant
    translate(path, output=tmp_path / "unbroken")
    cut_power_after(engine, 25)
    with pytest.raises(PowerCut):
        translate(path)
    del engine.generate
    engine.seen.clear()
    translate(path)
    assert len(engine.seen) == (15 if invariant else 16)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "unbroken")
    assert not list((tmp_path / "out/.progress").glob("answers*"))


@pytest.mark.parametrize("after", [False, True], ids=["before rename", "after rename"])
def test_a_crash_at_every_rename(tmp_path, translate, write_rows, monkeypatch, after):
    rows = [{"text": f"Row number {i}"} for i in range(10)] + [{"text": 1}]
    path = write_rows(rows)
    translate(path, output=tmp_path / "unbroken", shard_rows=4)
    rename = Path.replace
    crashes = 0
    for crash_at in range(100):
        renames = iter(range(1000))

        def crashing(self, target, crash_at=crash_at, renames=renames):
            if next(renames) == crash_at:
                if after:
                    rename(self, target)
                raise PowerCut
            return rename(self, target)

        out = tmp_path / f"out{crash_at}"
        monkeypatch.setattr(Path, "replace", crashing)
        try:
            translate(path, output=out, shard_rows=4)
            break
        except PowerCut:
            crashes += 1
        monkeypatch.setattr(Path, "replace", rename)
        translate(path, output=out, shard_rows=4)
        assert result_bytes(out) == result_bytes(tmp_path / "unbroken")
    # The plan, the failures at both ends, three shards and their records, the card, the manifest.
    assert crashes == 11


def test_a_full_disk_stops_with_one_line_and_loses_nothing(
    tmp_path, translate, write_rows, monkeypatch
):
    path = write_rows([{"text": f"Row number {i}"} for i in range(10)])
    translate(path, output=tmp_path / "unbroken", shard_rows=3)
    sync = storage.os.fsync
    syncs = iter(range(1000))

    def full(descriptor):
        if next(syncs) >= 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(JobError, match="No space left on device; finished shards are kept"):
        translate(path, shard_rows=3)
    monkeypatch.setattr(storage.os, "fsync", sync)
    kept = shards_in(tmp_path / "out")
    assert kept >= 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert translate(path, shard_rows=3).run.rows < 10
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "unbroken")


def test_a_file_that_cannot_grow_ends_the_command_with_one_line(tmp_path, write_rows):
    path = big_job(write_rows)
    done = subprocess.run(
        [*FAKE_COMMAND, *map(str, arguments(path, tmp_path / "out"))],
        env=command_env(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("hala-engine:")]
    assert len(errors) == 1
    assert "finished shards are kept" in errors[0]
    assert "Traceback" not in done.stderr
    assert run_command(*arguments(path, tmp_path / "out")).returncode == 3
    run_command(*arguments(path, tmp_path / "unbroken"))
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "unbroken")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_soon_and_the_job_resumes(tmp_path, write_rows, signum, code):
    path = big_job(write_rows)
    out = tmp_path / "out"
    process = start_command(*arguments(path, out), delay=0.001)
    wait_for(lambda: shards_in(out) >= 2, process)
    start = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 5  # 0.1 s on an idle machine
    assert process.returncode == code
    assert err.splitlines()[-1].startswith(f"hala-engine: stopped by {signum.name}; all finished")
    assert "Traceback" not in err
    assert run_command(*arguments(path, out)).returncode == 3
    run_command(*arguments(path, tmp_path / "unbroken"))
    assert result_bytes(out) == result_bytes(tmp_path / "unbroken")


def test_a_second_process_is_refused_while_the_first_works(tmp_path, write_rows):
    path = big_job(write_rows)
    first = start_command(*arguments(path, tmp_path / "out"), delay=0.001)
    wait_for(lambda: shards_in(tmp_path / "out") >= 1, first)
    second = run_command(*arguments(path, tmp_path / "out"))
    assert second.returncode == 2
    assert "another process is writing" in second.stderr
    assert first.wait(timeout=60) == 3


def test_an_input_that_changes_during_the_job_stops_it(tmp_path, write_rows):
    path = big_job(write_rows)
    process = start_command(*arguments(path, tmp_path / "out"), delay=0.001)
    wait_for(lambda: shards_in(tmp_path / "out") >= 1, process)
    with path.open("a") as file:
        file.write('{"text": "one more"}\n')
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was changed during the job" in err
