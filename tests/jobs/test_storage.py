"""Files that appear whole or not at all, and are on the disk before their name is."""

import os
from pathlib import Path

import pytest

from hala_engine.errors import InputError
from hala_engine.jobs import storage
from hala_engine.jobs.storage import OutputDirectory, atomic_file


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_block_ends(
    tmp_path, monkeypatch
):
    events = []
    sync, rename = os.fsync, Path.replace

    def syncing(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def renaming(self, target):
        events.append(("rename", target.name))
        return rename(self, target)

    monkeypatch.setattr(storage.os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", renaming)
    with atomic_file(tmp_path / "a.txt") as file:
        file.write(b"content")
        assert not (tmp_path / "a.txt").exists()
    assert events == [("sync", ".a.txt.tmp"), ("rename", "a.txt"), ("sync", tmp_path.name)]
    assert (tmp_path / "a.txt").read_bytes() == b"content"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_clearing_removes_all_that_a_job_writes_and_no_more(tmp_path):
    output = OutputDirectory(tmp_path, ("accepted", "rejected"))
    ours = [
        output.manifest,
        output.failures,
        output.card,
        output.plan,
        output.answers,
        output.answers.with_name("answers.sqlite-journal"),
        *(output.record(index) for index in (0, 12345)),
        *(output.shard(folder, 3, "jsonl") for folder in ("accepted", "rejected")),
        output.shard("accepted", 4, "parquet"),
        output.shard("accepted", 5, "jsonl").with_name(".part-00005.jsonl.tmp"),
        output.progress / ".plan.json.tmp",
    ]
    others = [tmp_path / "notes.txt", tmp_path / "accepted/notes.jsonl", tmp_path / "data/part-1"]
    for path in (*ours, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    output.clear()
    assert [path for path in ours if path.exists()] == []
    assert all(path.exists() for path in others)


def test_only_one_holds_a_directory(tmp_path):
    output = OutputDirectory(tmp_path / "out")
    with output.locked():
        second = OutputDirectory(tmp_path / "out").locked()
        with pytest.raises(InputError, match="another process is writing this job"), second:
            pass
        output.plan.write_text("")
    with output.locked():
        pass
