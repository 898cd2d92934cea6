"""Results of the shard in work, kept so that an interrupted shard need not begin anew.

One JSON line per translated piece of text, keyed by a digest of the piece. Lines reach the
operating system as they are written, so `kill -9` loses at most the line in writing, and a line
that was cut off is forgotten on reading. (After a power cut a shard may lose its whole journal;
then its pieces are translated again.)
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PieceResult:
    """What the engine made of one piece of text."""

    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    error: str | None = None


class Journal:
    """The results of one shard, by piece; on disk too when it has a path."""

    def __init__(self, path: Path | None):
        self._path = path
        self._file = None
        self._saved: dict[str, PieceResult] = {}
        if path is not None:
            self._saved = dict(_read(path))
            self._file = path.open("a", encoding="utf-8")

    def get(self, piece: str) -> PieceResult | None:
        """The result from an earlier run, if it was kept."""
        return self._saved.get(_key(piece)) if self._saved else None

    def put(self, piece: str, result: PieceResult) -> None:
        if self._file is not None:
            line = json.dumps({"key": _key(piece), **vars(result)}, ensure_ascii=False)
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def discard(self) -> None:
        """Take it off the disk: its shard is finished."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _key(piece: str) -> str:
    return hashlib.sha256(piece.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(path: Path) -> Iterator[tuple[str, PieceResult]]:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    for line in data[:whole].splitlines():
        record = json.loads(line)
        yield record.pop("key"), PieceResult(**record)
