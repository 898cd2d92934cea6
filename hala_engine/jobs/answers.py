"""What the model answered to each different question of a job, kept so that no question is asked
twice: not after an interruption, and not when a row repeats what an earlier one held.

One table of an SQLite file. A transaction keeps the answers of a whole block (see blocks.py), so
`kill -9` loses at most the block in work. Looking one up takes the same time whether a thousand or
a hundred million are kept, and no memory.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hala_engine.errors import JobError


class Answer(NamedTuple):
    """finish_reason: stop, length, or error with its `error`. scores: log-probabilities of the
    tokens that the request asked for, in its order, at the answer's first token."""

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    error: str | None = None
    scores: tuple[float, ...] = ()


# The rows lie in the order of their coming, so that adding to a large table writes few pages.
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    question BLOB, text TEXT, prompt_tokens INTEGER, output_tokens INTEGER, finish_reason TEXT,
    error TEXT, scores TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS by_question ON answers (question);
"""
_GET = (
    "SELECT text, prompt_tokens, output_tokens, finish_reason, error, scores FROM answers "
    "WHERE question = ?"
)
_PUT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)"


class Answers:
    """The answers of one job, by question. The job's lock keeps other processes away.

    Raises JobError when the disk is full or the file was damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._block: list[tuple] = []
        self._keys: dict[str, bytes] = {}  # of questions looked for in vain
        self._answers = self._open()

    def _open(self) -> sqlite3.Connection:
        with _errors_named(self._path):
            try:
                return _connect(self._path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                # A power cut may leave a damaged file: it only saves work, so begin it anew.
                discard(self._path)
                return _connect(self._path)

    def get(self, question: str) -> Answer | None:
        """The answer, if one was kept."""
        key = _key(question)
        try:
            found = self._answers.execute(_GET, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise _named(self._path, error) from error
        if found is None:
            self._keys[question] = key
            return None
        *plain, scores = found
        return Answer(*plain, scores=tuple(map(float, scores.split())) if scores else ())

    def put(self, question: str, answer: Answer) -> None:
        """Add to the block in work."""
        key = self._keys.pop(question, None) or _key(question)
        scores = " ".join(map(repr, answer.scores)) if answer.scores else ""
        self._block.append((key, *answer[:-1], scores))

    @property
    def pending(self) -> int:
        """Answers of the block in work."""
        return len(self._block)

    def forget(self) -> None:
        """Give up the block in work."""
        self._block = []

    def commit(self) -> None:
        """Keep the block in work: all of its answers, or none after a crash in the writing."""
        if self._block:
            with _errors_named(self._path), self._answers:
                self._answers.executemany(_PUT, self._block)
            self._block = []
            self._keys.clear()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._answers.close()


def discard(path: Path) -> None:
    """Take the answers off the disk: their job is finished."""
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # The job's lock keeps others away. SQLite's own locks cost half of a look-up, and some network
    # file systems lack them. Without `synchronous`: what a process wrote outlives it anyway.
    answers = sqlite3.connect(f"{path.absolute().as_uri()}?vfs=unix-none", uri=True)
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = TRUNCATE",
        "synchronous = OFF",
        "cache_size = -32768",  # KiB
    ):
        answers.execute(f"PRAGMA {setting}")
    answers.executescript(_TABLE)
    return answers


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _named(path, error) from error


def _named(path: Path, error: sqlite3.DatabaseError) -> JobError:
    if isinstance(error, sqlite3.OperationalError):
        remedy = "mend the cause (a full disk?)"
    else:  # what a power cut may leave
        remedy = "delete that file"
    return JobError(
        f"{path}: {error}; finished shards are kept: {remedy} and run the same command again"
    )


def _key(question: str) -> bytes:
    return hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=16).digest()
