"""Targets, disks and flags that cannot be used: one line that says what, where and how to mend it,
and nothing left behind."""

import errno
import json
import os
import resource
from collections import namedtuple
from multiprocessing import get_context

import pytest

from hala_tools.slerp import directory
from tests.tools.slerp.commands import ERROR, left_over, refusal, run_command, run_here

WEIGHTS = "model.safetensors"
SIDES = pytest.mark.parametrize("side", ["base", "tuned"])


@pytest.mark.parametrize("kind", ["directory", "file", "full directory", "link", "dangling link"])
def test_target_that_exists_is_left_as_it_is(pair, capfd, kind):
    if kind == "file":
        pair.out.write_text("x")
    elif kind.endswith("link"):
        pair.out.symlink_to(pair.base.parent if kind == "link" else "nowhere")
    else:
        pair.out.mkdir()
        if kind.startswith("full"):
            (pair.out / "notes").write_text("x")
    before = os.lstat(pair.out).st_ino, sorted(pair.out.parent.rglob("*"))
    done = run_here(capfd, *pair.paths)
    assert done.code == 2
    advice = "remove it or give another directory for the result"
    assert done.err == f"{ERROR}{pair.out} exists; {advice}\n"
    assert (os.lstat(pair.out).st_ino, sorted(pair.out.parent.rglob("*"))) == before


@SIDES
def test_target_that_is_a_source(pair, capfd, side):
    """To remove it would be poor advice."""
    source = pair.model(side)
    files = sorted(source.iterdir())
    done = run_here(capfd, pair.base, pair.tuned, source)
    assert done.code == 2
    assert done.err == f"{ERROR}{source} is a source; give another directory for the result\n"
    assert (sorted(source.iterdir()), left_over(source)) == (files, [source.name])


def test_target_in_a_directory_that_is_not_there(pair, capfd):
    for parent in (pair.out.parent / "none", pair.base / WEIGHTS):
        out = parent / "out"
        done = run_here(capfd, pair.base, pair.tuned, out)
        assert (done.code, done.out) == (2, "")
        assert done.err == f"{ERROR}{out}: there is no directory {parent}; make it first\n"
    assert left_over(pair.out) == []


WITHOUT_PRIVILEGES = """
import ctypes
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
"""
"""Linux: the rights by which root may write everywhere are given up."""


def test_target_in_a_directory_that_may_not_be_written(pair):
    parent = pair.out.parent / "locked"
    parent.mkdir(mode=0o555)
    out = parent / "out"
    done = run_command(pair.base, pair.tuned, out, before=WITHOUT_PRIVILEGES)
    assert refusal(done, out) == f"{out}: no permission to write in {parent}"


def test_file_beside_the_weights_that_may_not_be_read(pair):
    (pair.base / "LICENSE").touch(mode=0)
    done = run_command(*pair.paths, before=WITHOUT_PRIVILEGES)
    message = refusal(done, pair.out, code=1)
    assert str(pair.base / "LICENSE") in message and "Permission denied" in message


def test_disk_without_room_for_the_result(pair, refused, monkeypatch):
    usage = namedtuple("usage", "free")(1000)
    monkeypatch.setattr(directory.shutil, "disk_usage", lambda _: usage)
    message = refused(pair)
    assert message.startswith(f"{pair.out}: the result takes ")
    assert "its disk has 1,000 free; free some or give a directory on another disk" in message


@pytest.mark.parametrize("room", [0, 3000, 6000])
def test_disk_that_fills_up_meanwhile(pair, refused, monkeypatch, room):
    """In the header, or in a worker."""
    write, written = os.pwrite, get_context("fork").Value("q", 0)

    def write_while_there_is_room(file, data, position):
        with written:
            written.value += len(data)
            full = written.value > room
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data, position)

    monkeypatch.setattr(os, "pwrite", write_while_there_is_room)
    message = refused(pair, code=1)
    assert "No space left on device" in message
    assert str(pair.out) in message


@pytest.mark.parametrize("limit", [1000, 10_000])
def test_file_that_grows_beyond_what_the_system_allows(pair, limit):
    limits = limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    done = run_command(
        *pair.paths, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    )
    message = refusal(done, pair.out, code=1)
    assert "File too large" in message
    assert str(pair.out) in message


def test_more_files_than_may_be_open(pair):
    limits = 24, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = run_command(
        *pair.paths,
        "--shard-size",
        1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )
    assert done.code in (1, 2)
    assert "open files" in refusal(done, pair.out, done.code)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_link_in_the_place_of_the_unfinished_result_is_not_followed(pair, capfd, kind):
    """Anyone may put one there in a directory that all may write, such as /tmp."""
    precious = pair.out.parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    leads_to = precious if kind == "directory" else precious / "file"
    partial = pair.out.with_name(f".{pair.out.name}.partial")
    partial.symlink_to(leads_to)
    done = run_here(capfd, *pair.paths)
    assert [path.name for path in precious.iterdir()] == ["file"]
    if done.code:
        assert partial.is_symlink() and str(partial) in done.err and len(done.others) == 1
    else:
        assert pair.out.is_dir() and not pair.out.is_symlink()


# What is asked for.


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("nowhere", "no model directory at nowhere; give a local directory or a hub id"),
        ("/no/where", "no model directory at /no/where; give a local directory or a hub id"),
        (
            "no-one/nothing",
            "no-one/nothing is no local directory and could not be had from",
        ),
        ("no-one/nothing@v1", "no-one/nothing@v1 is no local directory and could not be had from"),
        ("../nothing", "../nothing is no local directory and could not be had from the hub"),
        (__file__, f"{__file__} is a file; give a model directory or a hub id"),
    ],
)
@SIDES
def test_models_that_are_not_there(pair, capfd, side, model, why):
    models = {"base": pair.base, "tuned": pair.tuned} | {side: model}
    done = run_here(capfd, *models.values(), pair.out)
    assert refusal(done, pair.out).startswith(why)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "half", "", "0.5,", "0;1"])
@pytest.mark.parametrize("flag", ["--t", "--t-filter"])
def test_factors_that_are_no_numbers(pair, refused, flag, value):
    given = value if flag == "--t" else f"mlp={value}"
    message = refused(pair, f"{flag}={given}")
    assert message.startswith(f"{flag} {given!r}: ")
    assert "is not a finite number" in message


@pytest.mark.parametrize("given", ["mlp", "=0.5", "0.5"])
def test_filters_that_lack_a_part(pair, refused, given):
    assert refused(pair, "--t-filter", given).startswith(f"--t-filter {given!r} has no ")


@pytest.mark.parametrize("stop", [1, 3])
def test_slices_that_end_elsewhere_than_the_layers(pair, capfd, tmp_path, stop):
    sources = [{"model": str(m), "layer_range": [0, stop]} for m in (pair.base, pair.tuned)]
    merge = {
        "slices": [{"sources": sources}],
        "merge_method": "slerp",
        "base_model": str(pair.base),
        "parameters": {"t": 0.5},
    }
    (tmp_path / "merge.yml").write_text(json.dumps(merge))
    message = refusal(run_here(capfd, "--config", tmp_path / "merge.yml", pair.out), pair.out)
    assert message.startswith(f"layer_range ends at {stop}, the models have 2 layers")


def test_reports_that_cannot_be_written(pair, refused, tmp_path):
    """Found before the merge, not after it."""
    for name in ("is.json", "picture.svg"):
        (tmp_path / name).mkdir()
    for report, why in (
        ("report.txt", "give a name that ends in .json"),
        ("report", "give a name that ends in .json"),
        ("none/report.json", f"there is no directory {tmp_path / 'none'}"),
        ("out/report.json", f"lies in {pair.out}, which is made only at the end"),
        ("is.json", "is a directory"),
        ("picture.json", "is a directory"),
    ):
        message = refused(pair, "--report", tmp_path / report)
        assert message.startswith("--report ") and why in message, message


def test_report_for_which_there_is_no_room(pair, capfd, tmp_path):
    """By then the result is there, and that is said."""
    report = tmp_path / "report.json"
    report.symlink_to("/dev/full")
    done = run_here(capfd, *pair.paths, "--report", report)
    assert (done.code, len(done.others)) == (1, 1)
    assert str(report) in done.err and "No space left" in done.err
    assert pair.out.is_dir() == (f"{pair.out} is complete" in done.err)


def test_report_without_matplotlib(pair, tmp_path):
    """Found before the merge, not after it."""
    report = tmp_path / "report.json"
    without = "import sys; sys.modules['matplotlib'] = None"
    done = run_command(*pair.paths, "--report", report, before=without)
    assert "matplotlib" in refusal(done, pair.out)
    assert not report.exists()
