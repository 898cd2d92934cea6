"""A merge that is stopped, at whatever moment: the result is there whole or not at all, no process
stays behind, and the same command then gives the same bytes."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.slerp.commands import Done, Pair, left_over, run_command
from tests.tools.slerp.processes import alive, ended, started, wait_for, workers_of

MOMENTS = random.Random(5)

SLOW = """
import time
from hala_tools.slerp.writer import Writer
write = Writer.write
def slowly(*arguments):
    time.sleep(0.05)
    write(*arguments)
Writer.write = slowly
"""
"""27 tensors by two processes: 0.7 s."""

TWO_PROCESSES = """
from hala_tools.slerp import workers
workers._processors, workers._WAITING = (lambda: 2), 0
"""

SIXTEEN_PROCESSES = TWO_PROCESSES.replace("lambda: 2", "lambda: 16")


@pytest.fixture(scope="module")
def unbroken(made):
    """File -> bytes of a merge that nothing stopped."""
    pair = made("qwen2")
    done = run_command(*pair.paths)
    assert done.code == 0
    return contents(pair.out)


def contents(directory: Path) -> dict[str, bytes]:
    """All but the card, which names the directories."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".md"}


def writing(pair: Pair, process: subprocess.Popen[str]) -> Callable[[], bool]:
    """Whether the processes have been started and one has begun to write."""
    weights = pair.out.with_name(f".{pair.out.name}.partial") / "model.safetensors"
    return lambda: len(alive(process.pid)) > 2 and weights.is_file()


def assert_rerun_gives(pair: Pair, wanted: dict[str, bytes]) -> None:
    done = run_command(*pair.paths)
    assert (done.code, done.err) == (0, "")
    assert contents(pair.out) == wanted
    assert left_over(pair.out) == [pair.out.name]


# Killed.


def test_killed_at_any_moment_a_rerun_gives_the_same_bytes(pair, unbroken):
    for _ in range(6):
        with started(pair, TWO_PROCESSES + SLOW) as process:
            wait_for(writing(pair, process))
            time.sleep(MOMENTS.uniform(0, 0.25))
            process.kill()
            assert ended(process).code == -signal.SIGKILL
            wait_for(lambda process=process: not alive(process.pid), 1)
        assert not pair.out.exists()
    assert_rerun_gives(pair, unbroken)


KILL_AT = """
import os, signal
import hala_tools.slerp.{module} as module
original = {where}
def kill(*arguments, **options):
    {done}os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
{where} = kill
"""
POINTS = {
    "tokenizer": ("job", "module.copy_other_files", ""),
    "card": ("job", "module.model_card", ""),
    "before rename": ("directory", "module.Path.rename", ""),
    "after rename": ("directory", "module.Path.rename", "original(*arguments); "),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_after_the_weights_there_is_all_or_nothing(pair, unbroken, point):
    module, where, done = POINTS[point]
    before = KILL_AT.format(module=module, where=where, done=done)
    assert run_command(*pair.paths, before=before).code == -signal.SIGKILL
    if point == "after rename":
        assert left_over(pair.out) == [pair.out.name]
        assert contents(pair.out) == unbroken
    else:
        assert not pair.out.exists()
        assert_rerun_gives(pair, unbroken)


def test_a_killed_worker_ends_the_merge(pair, unbroken):
    with started(pair, TWO_PROCESSES + SLOW) as process:
        wait_for(writing(pair, process))
        os.kill(workers_of(process)[0], signal.SIGKILL)
        done = ended(process)
        wait_for(lambda: not alive(process.pid), 1)
    assert (done.code, done.out) == (1, "")
    why = "a worker process was killed, perhaps for want of memory; nothing was written"
    assert done.err == f"hala-slerp: error: {why}\n"
    assert left_over(pair.out) == []
    assert_rerun_gives(pair, unbroken)


# Stopped by a signal.


STOPS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def assert_stopped(done: Done, pair: Pair, number: signal.Signals) -> None:
    assert (done.code, done.out) == (128 + number, ""), done
    assert done.err == f"hala-slerp: stopped by {number.name}; nothing was written\n"
    assert left_over(pair.out) == []


@pytest.mark.parametrize("group", [False, True])
@STOPS
def test_stopped_at_any_moment_nothing_is_left(pair, number, group):
    """`group`: the terminal's Ctrl-C goes to the workers as well."""
    for _ in range(2):
        with started(pair, TWO_PROCESSES + SLOW) as process:
            wait_for(writing(pair, process))
            time.sleep(MOMENTS.uniform(0, 0.2))
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert_stopped(ended(process), pair, number)
            wait_for(lambda process=process: not alive(process.pid), 1)


AT_FORK = """
import os, signal, time
forks = 0
def stop():
    global forks
    forks += 1
    if forks == {fork}:
        os.kill(os.getpid(), {number})
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
os.register_at_fork({side}=stop)
"""


@pytest.mark.parametrize(
    ("number", "side", "fork"),
    [
        (signal.SIGINT, "before", 1),
        (signal.SIGTERM, "before", 2),
        (signal.SIGTERM, "after_in_parent", 1),
        (signal.SIGINT, "after_in_parent", 2),
    ],
)
def test_stopped_while_processes_are_started(pair, number, side, fork):
    """What a signal's handler raises is lost there: Python calls such functions, some of its own,
    before and after a fork, and goes on whatever they raise."""
    before = TWO_PROCESSES + AT_FORK.format(number=int(number), side=side, fork=fork)
    with started(pair, before) as process:
        assert_stopped(ended(process), pair, number)


AFTER_THE_FIRST = """
import os, signal
from multiprocessing.process import BaseProcess
start = BaseProcess.start
def start_and_stop(self):
    start(self)
    BaseProcess.start = start
    os.kill(os.getpid(), {number})
BaseProcess.start = start_and_stop
"""


@STOPS
def test_stopped_between_the_starts_of_two_processes(pair, number):
    """Those that run must not be waited for: nobody gives them work or tells them to end."""
    with started(pair, TWO_PROCESSES + AFTER_THE_FIRST.format(number=int(number))) as process:
        assert_stopped(ended(process), pair, number)
        assert alive(process.pid) == []


def test_a_new_process_leaves_ctrl_c_to_the_first(pair, unbroken):
    """From its first moment on: it has nothing to say to the user."""
    before = TWO_PROCESSES + AT_FORK.format(
        number=int(signal.SIGINT), side="after_in_child", fork=1
    )
    with started(pair, before) as process:
        done = ended(process)
    assert (done.code, done.err) == (0, "")
    assert contents(pair.out) == unbroken


ONE_STARTS_LATE = """
import os, time
from hala_tools.slerp import workers
workers._processors, workers._WAITING = (lambda: 8), 0
forks = 0
def count():
    global forks
    forks += 1
os.register_at_fork(before=count)
begin = workers._begin
def begin_late(*arguments):
    if forks == 1:
        time.sleep(1)
    begin(*arguments)
workers._begin = begin_late
"""


def test_the_other_workers_are_killed_while_one_has_only_just_started(pair):
    """It is then told to end, and must not take that for the first process's affair."""
    with started(pair, ONE_STARTS_LATE + SLOW) as process:
        wait_for(lambda: len(alive(process.pid)) == 9)
        time.sleep(0.2)
        for worker in sorted(workers_of(process))[1:]:
            os.kill(worker, signal.SIGKILL)
        done = ended(process)
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
        wait_for(lambda: not alive(process.pid), 2)
    assert left_over(pair.out) == []


@STOPS
def test_all_are_stopped_while_one_has_only_just_started(pair, number):
    with started(pair, ONE_STARTS_LATE + SLOW) as process:
        wait_for(lambda: len(alive(process.pid)) == 9)
        time.sleep(0.2)
        os.killpg(process.pid, number)
        assert_stopped(ended(process), pair, number)
        wait_for(lambda: not alive(process.pid), 2)


def test_ctrl_c_at_the_start_of_many_processes(pair):
    for moment in range(3):
        with started(pair, SIXTEEN_PROCESSES + SLOW) as process:
            wait_for(lambda process=process, least=2 + 5 * moment: len(alive(process.pid)) >= least)
            os.killpg(process.pid, signal.SIGINT)
            assert_stopped(ended(process), pair, signal.SIGINT)
            wait_for(lambda process=process: not alive(process.pid), 1)


WITH_A_LOCK = """
import os, signal, threading
first = threading.get_ident()
taken = 0
enter = threading.Condition.__enter__
def enter_and_stop(self):
    global taken
    entered = enter(self)
    if threading.get_ident() == first:
        taken += 1
        if taken == {number_of_lock}:
            os.kill(os.getpid(), {number})
    return entered
threading.Condition.__enter__ = enter_and_stop
"""


@pytest.mark.parametrize(("number", "number_of_lock"), [(signal.SIGINT, 5), (signal.SIGTERM, 40)])
def test_stopped_while_a_lock_is_taken(pair, number, number_of_lock):
    """One that nobody lets go of again, if the handler breaks in there."""
    before = WITH_A_LOCK.format(number=int(number), number_of_lock=number_of_lock)
    with started(pair, TWO_PROCESSES + before) as process:
        assert_stopped(ended(process), pair, number)


@STOPS
def test_a_second_signal_ends_it_though_a_worker_hangs(pair, unbroken, number):
    """As on a disk of the network that is gone."""
    with started(pair, TWO_PROCESSES + SLOW) as process:
        wait_for(writing(pair, process))
        time.sleep(0.1)  # each has come to its work
        for worker in workers_of(process):
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(number)
        time.sleep(0.5)
        process.send_signal(number)
        assert ended(process).code in (-number, 128 + number)
        wait_for(lambda: not alive(process.pid), 1)
    assert not pair.out.exists()
    assert_rerun_gives(pair, unbroken)


STOP_IN_THE_END = """
import signal
import hala_tools.slerp.plot as plot
plot.draw = lambda *_: signal.raise_signal(signal.SIGTERM)
"""


def test_stopped_while_the_picture_is_drawn_it_says_whether_there_is_a_result(pair, tmp_path):
    done = run_command(*pair.paths, "--report", tmp_path / "report.json", before=STOP_IN_THE_END)
    assert done.code == 128 + signal.SIGTERM
    (line,) = done.err.splitlines()
    assert ("nothing was written" in line) == (not pair.out.exists())


# Two at once.


def test_of_two_merges_into_one_target_one_is_refused(pair, unbroken):
    slower = TWO_PROCESSES + SLOW.replace("0.05", "0.1")
    with started(pair, slower) as first, started(pair, slower) as second:
        done = sorted((ended(process) for process in (first, second)), key=lambda done: done.code)
    assert [one.code for one in done] == [0, 2]
    assert done[0].err == ""
    why = f"{pair.out} is being written by another hala-slerp; wait for it"
    assert done[1].err == f"hala-slerp: error: {why}\n"
    assert contents(pair.out) == unbroken
    assert left_over(pair.out) == [pair.out.name]


APPEARS = """
import os
import hala_tools.slerp.job as job
prepare = job.prepare
def prepare_and_wait(request, target):
    prepared = prepare(request, target)
    target.mkdir()
    (target / "theirs").touch()
    return prepared
job.prepare = prepare_and_wait
"""


def test_target_that_appears_meanwhile_is_left_as_it_is(pair):
    done = run_command(*pair.paths, before=APPEARS)
    assert done.code in (1, 2)
    assert (done.out, len(done.err.splitlines())) == ("", 1)
    assert str(pair.out) in done.err
    assert [path.name for path in pair.out.iterdir()] == ["theirs"]
    assert left_over(pair.out) == [pair.out.name]
