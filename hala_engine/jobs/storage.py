"""Files that appear whole or not at all, and the layout of a job's output directory.

    data/part-00000.jsonl      the shards; a judge's are in accepted/ and rejected/
    failures.jsonl  manifest.json  README.md
    .progress/lock             held while a job runs
    .progress/plan.json        what the job is; see plan.py
    .progress/part-00000.json  one finished shard's record: digest, counts, failures
    .progress/answers.sqlite   what the model answered so far; see answers.py

A shard counts as finished when its record is there and its files have the record's sizes.
The record is written after the files, so a crash between the two only makes the shard again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hala_engine.errors import InputError

_PROGRAM = "hala-engine"


def tool(command: str) -> str:
    """How a manifest names the command that made it."""
    return f"{_PROGRAM} {command}"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name that takes its own when the block ends without an error.

    Raises InputError when another process is writing it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another process is writing it; wait or stop it") from None
        try:
            file.truncate(0)  # what a killed process left
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    _sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n")


def _sync_directory(path: Path) -> None:
    """Make a rename in this directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OutputDirectory:
    """Names the files of one job's output, and sees to it that they are ours and ours alone."""

    def __init__(self, path: Path, folders: Sequence[str] = ("data",)):
        self.path = path
        self.folders = [path / name for name in folders]
        self.progress = path / ".progress"
        self.plan = self.progress / "plan.json"
        self.answers = self.progress / "answers.sqlite"
        self.failures = path / "failures.jsonl"
        self.manifest = path / "manifest.json"
        self.card = path / "README.md"

    def shard(self, folder: str, index: int, format: str) -> Path:
        return self.path / folder / f"part-{index:05d}.{format}"

    def record(self, index: int) -> Path:
        return self.progress / f"part-{index:05d}.json"

    def check(self, overwrite: bool) -> None:
        """Refuse a directory in which we would mix with files or destroy files of others."""
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if self._is_ours():
            if self._is_cut_off() and not overwrite:
                raise InputError(
                    f"{self.path} holds files of a job without the record of how far it came "
                    f"({self.progress.name}); give another --output, or --overwrite to begin anew"
                )
            return
        if not overwrite:
            raise InputError(
                f"{self.path} is not empty and holds no job of {_PROGRAM}; "
                "give another --output, or --overwrite to write beside what is there"
            )
        named = (*self.folders, self.failures, self.manifest, self.card)
        in_the_way = [path for path in named if path.exists()]
        if in_the_way:
            raise InputError(
                f"{in_the_way[0]} is not from a job of {_PROGRAM}, so it is not overwritten; "
                "move it or give another --output"
            )

    def _is_cut_off(self) -> bool:
        """There is a job's work and no plan to go on by."""
        parts = (path for folder in self.folders for path in folder.glob("part-*"))
        return not self.plan.exists() and (self.manifest.exists() or any(parts))

    def _is_ours(self) -> bool:
        if self.progress.is_dir():
            return True
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            made_by = json.loads(self.manifest.read_bytes())["tool"]
            return made_by.partition(" ")[0] == _PROGRAM
        return False

    def made_with(self, model: str, revision: str | None) -> bool:
        """Whether the manifest names this model; another name may be the same model's."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            config = json.loads(self.manifest.read_bytes())["config"]
            return (config["model"], config["revision"]) == (model, revision)
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory, made if need be; a second process is refused.

        A directory that was made here and in which no job was begun is taken away again.
        """
        made = [path for path in (self.path, self.progress) if not path.exists()]
        try:
            self.progress.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output {self.path}: cannot be made ({error.strerror})") from None
        lock = self.progress / "lock"
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"{self.path}: another process is writing this job; wait for it or stop it"
                ) from None
            try:
                yield
            finally:
                if made and not self.plan.exists():
                    lock.unlink(missing_ok=True)
                    for path in reversed(made):
                        with suppress(OSError):
                            path.rmdir()

    def clear(self) -> None:
        """Remove the files of an earlier job, and nothing else."""
        # The plan goes last: while it is there, an interrupted removal can be resumed as ours.
        for path in (self.manifest, self.failures, self.card):
            path.unlink(missing_ok=True)
        for folder in self.folders:
            for pattern in ("part-*.jsonl", "part-*.parquet", ".part-*.tmp"):
                for path in folder.glob(pattern):
                    path.unlink()
        for pattern in ("part-*.json", f"{self.answers.name}*", ".*.tmp"):
            for path in self.progress.glob(pattern):
                path.unlink()
        self.plan.unlink(missing_ok=True)
