"""Results of the shard in work, kept so that an interrupted shard need not begin anew.

A JSON line per committed block: the list of its results, each keyed by a digest of the piece of
text. Lines reach the operating system as they are written, so `kill -9` loses at most the block in
work, and a line that was cut off is forgotten on reading. (After a power cut a shard may lose its
whole journal; then its pieces are translated again.)
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
    """The results of one shard, by piece."""

    def __init__(self, path: Path):
        self._path = path
        self._saved = dict(_read(path))
        self._file = path.open("a", encoding="utf-8")
        self._block: list[dict] = []

    def get(self, piece: str) -> PieceResult | None:
        """The result from an earlier run, if it was kept."""
        return self._saved.get(_key(piece)) if self._saved else None

    def put(self, piece: str, result: PieceResult) -> None:
        """Add to the block in work."""
        self._block.append({"key": _key(piece), **vars(result)})

    def commit(self) -> None:
        """Keep the block in work: all of its results, or none after a crash in the writing."""
        if self._block:
            self._file.write(json.dumps(self._block, ensure_ascii=False) + "\n")
            self._file.flush()
            self._block = []

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()

    def discard(self) -> None:
        """Take it off the disk: its shard is finished."""
        self.close()
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
        for record in json.loads(line):
            yield record.pop("key"), PieceResult(**record)
