"""A directory that appears complete, by a rename, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hala_tools.slerp.errors import InputError, MergeError
from hala_tools.slerp.files import sync


def check_target(target: Path) -> None:
    """Raises InputError if `target` cannot be made."""
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists; remove it or give another directory for the result")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no directory {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{target}: no permission to write in {target.parent}")


def check_space(target: Path, bytes_needed: int) -> None:
    """Raises InputError if the disk of `target` has less room than is needed."""
    free = shutil.disk_usage(target.parent).free
    if bytes_needed > free:
        raise InputError(
            f"{target}: the result takes {bytes_needed:,} bytes, its disk has {free:,} free; "
            "free some or give a directory on another disk"
        )


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its name if the block ends well, and goes if not.

    What a killed process left is removed; while another one is at work on the same `target`, it is
    an InputError.
    """
    partial = target.with_name(f".{target.name}.partial")
    held = _held(partial, target)
    try:
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        try:
            check_target(target)  # which may have appeared meanwhile
            yield partial
            sync(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise MergeError(_explained(error, target)) from error
    finally:
        os.close(held)


def _explained(error: OSError, target: Path) -> str:
    made = target.with_name(f".{target.name}.partial")
    named = error.filename and Path(os.fsdecode(error.filename))
    where = target if not named or named.is_relative_to(made) else named
    reason = f"{where}: {error.strerror or error}; nothing was written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason += "; free some space or give a directory on another disk"
    return reason


def _held(partial: Path, target: Path) -> int:
    """A descriptor of the directory `partial`, made if need be, that no other process can have."""
    if partial.is_symlink():
        partial.unlink()  # whatever it leads to is none of ours
    partial.mkdir(exist_ok=True)
    held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(held, partial, target)
    except BaseException:
        os.close(held)
        raise
    return held


def _lock(held: int, partial: Path, target: Path) -> None:
    """The system lets go of it when the process ends, however it ends."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(held), os.stat(partial)):
            raise FileNotFoundError  # renamed by another before we had it
    except OSError:
        raise InputError(f"{target} is being written by another hala-slerp; wait for it") from None
