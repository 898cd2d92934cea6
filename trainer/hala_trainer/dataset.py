"""Rows of text -> flat arrays of token ids, tokenised once and kept beside the run."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hala_trainer.chat import ChatRenderer
from hala_trainer.errors import InputError

FORMAT = "3"  # raise when what is cached changes its meaning
CHUNK_ROWS = 20_000


@dataclass(frozen=True)
class Documents:
    """Document i is ids[offsets[i]:offsets[i+1]]; `supervised` marks the tokens to be learnt."""

    ids: np.ndarray  # uint16 or uint32 [tokens]
    supervised: np.ndarray  # bool [tokens]
    offsets: np.ndarray  # int64 [documents + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def concat(parts: list["Documents"]) -> "Documents":
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(p.offsets) for p in parts])
        return Documents(
            np.concatenate([p.ids for p in parts]),
            np.concatenate([p.supervised for p in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    def select(self, keep: np.ndarray) -> "Documents":
        """The documents whose flag in `keep` is set."""
        lengths = np.diff(self.offsets)
        tokens = np.repeat(keep, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
        return Documents(self.ids[tokens], self.supervised[tokens], offsets)


def read_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield (place, row); the place names the line in an error."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        n = 0
        for group in pq.ParquetFile(path).iter_batches(batch_size=CHUNK_ROWS):
            for row in group.to_pylist():
                n += 1
                yield f"{path} row {n}", row
        return
    with path.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path} line {n}: not valid JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise InputError(f"{path} line {n}: a row must be a JSON object")
            yield f"{path} line {n}", row


def messages_of(place: str, row: dict) -> list[dict]:
    if row.get("messages"):
        messages = row["messages"]
    elif isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str):
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
    else:
        raise InputError(f"{place}: needs `messages`, or `prompt` and `response`")
    try:
        if not any(m["role"] == "assistant" for m in messages):
            raise InputError(f"{place}: no assistant turn, so nothing to learn from it")
        if not all(isinstance(m["content"], str) for m in messages):
            raise InputError(f"{place}: every message's content must be a string")
    except (KeyError, TypeError):
        raise InputError(f"{place}: every message needs a role and a content") from None
    return messages


def load_documents(path: Path, tokenizer, cache_dir: Path, limit: int = 0) -> Documents:
    """Tokenise `path`, or read what an earlier run kept; `limit` takes only the first documents."""
    if not path.is_file():
        raise InputError(f"{path}: no such data file")
    if path.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{path}: data must be .jsonl or .parquet")
    renderer = ChatRenderer(tokenizer)
    key = hashlib.sha256()
    with path.open("rb") as file:
        key.update(hashlib.file_digest(file, "sha256").digest())
    key.update(renderer.fingerprint())
    key.update(f"{FORMAT} {limit}".encode())
    kept = cache_dir / f"{path.stem}-{key.hexdigest()[:16]}"
    if not kept.is_dir():
        _tokenise(path, renderer, kept, limit)
    return Documents(*(np.load(kept / f"{n}.npy") for n in ("ids", "supervised", "offsets")))


def _tokenise(path: Path, renderer: ChatRenderer, kept: Path, limit: int) -> None:
    dtype = np.uint16 if renderer.vocab_size <= 2**16 else np.uint32
    ids: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    lengths: list[int] = []
    chunk: list[tuple[str, list[dict]]] = []

    def flush() -> None:
        for token_ids, supervised in renderer.encode(chunk):
            ids.append(np.asarray(token_ids, dtype))
            marks.append(np.asarray(supervised, bool))
            lengths.append(len(token_ids))
        chunk.clear()

    for n, (place, row) in enumerate(read_rows(path)):
        if limit and n == limit:
            break
        chunk.append((place, messages_of(place, row)))
        if len(chunk) == CHUNK_ROWS:
            flush()
    flush()
    if not ids:
        raise InputError(f"{path}: no rows")
    tmp = kept.with_name(f"{kept.name}.tmp{os.getpid()}")
    tmp.mkdir(parents=True, exist_ok=True)
    np.save(tmp / "ids.npy", np.concatenate(ids))
    np.save(tmp / "supervised.npy", np.concatenate(marks))
    np.save(tmp / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    tmp.rename(kept)
