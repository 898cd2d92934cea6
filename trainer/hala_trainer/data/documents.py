"""Tokenised documents: of one file, and of all sources seen as one corpus."""

import hashlib
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hala_trainer.config import DataConfig, SourceConfig
from hala_trainer.data.cache import Tell, tokenised
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.data.rows import FileRows, all_flagged, data_files
from hala_trainer.errors import InputError


@dataclass(frozen=True)
class Documents:
    """The rows of one file: row r is ids[offsets[r]:offsets[r+1]], `supervised` what is learnt.

    The arrays are memory maps as a rule, and never copied. `kept` lists the rows that are documents
    (int64, ascending); None stands for all of them.
    """

    ids: np.ndarray  # uint16 or uint32 [tokens]
    supervised: np.ndarray  # bool [tokens]
    offsets: np.ndarray  # int64 [rows + 1]
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.kept is None else len(self.kept)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 [documents]."""
        lengths = np.diff(self.offsets)
        return lengths if self.kept is None else lengths[self.kept]

    def get(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and supervision marks of one document."""
        row = index if self.kept is None else self.kept[index]
        start, stop = self.offsets[row], self.offsets[row + 1]
        return self.ids[start:stop], self.supervised[start:stop]

    def where(self, flags: np.ndarray) -> "Documents":
        """The documents whose flag is set (bool [documents])."""
        rows = np.flatnonzero(flags)
        return replace(self, kept=rows if self.kept is None else self.kept[rows])


@dataclass(frozen=True)
class Source:
    """What there is to say about one entry of data.train or data.eval."""

    name: str
    documents: int
    tokens: int
    dropped: int  # rows longer than data.seq_len; not among the documents
    flagged: int  # rows left out by drop_flagged; neither
    seconds: float  # until it was ready


class Corpus:
    """Documents of several sources, numbered through: source s has sizes[s] of them from starts[s].

    `parts` may be more than the sources, which are of several files then; `sizes` tells.
    """

    def __init__(
        self,
        parts: Sequence[Documents],
        sizes: Sequence[int] | None = None,
        sources: Sequence[Source] = (),
    ):
        counts = [len(part) for part in parts]
        self._parts = list(parts)
        self._firsts = (np.cumsum(counts) - counts).tolist()
        self.lengths: np.ndarray = np.concatenate([part.lengths for part in parts])  # int64
        self.sizes = np.array(counts if sizes is None else sizes, np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.sources = list(sources)

    def __len__(self) -> int:
        return len(self.lengths)

    def fingerprint(self) -> str:
        """Of the lengths of all documents: a place in their order means nothing to others."""
        return hashlib.sha256(self.lengths.tobytes() + self.sizes.tobytes()).hexdigest()

    def get(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (uint16 or uint32) and supervision marks (bool) of one document, as views."""
        part = bisect_right(self._firsts, index) - 1
        return self._parts[part].get(index - self._firsts[part])


def load_corpus(
    configs: Sequence[SourceConfig],
    tokenizer,
    data: DataConfig,
    cache: Path,
    limit: int = 0,
    tell: Tell = lambda text: None,
) -> Corpus:
    """Read the sources, tokenising what the cache does not hold yet.

    `limit` takes only the first rows of each source; `tell` hears of long work in between.
    Raises InputError for whatever is wrong with them, rows longer than data.seq_len included unless
    data.overlong is "drop".
    """
    found = [data_files(Path(c.path)) for c in configs]  # a name mistyped is told before any work
    renderer = ChatRenderer(tokenizer)
    parts: list[Documents] = []
    sources: list[Source] = []
    for config, files in zip(configs, found, strict=True):
        began = time.monotonic()
        of_source: list[Documents] = []
        flagged = 0
        for file in files:
            left = limit - sum(map(len, of_source))
            if limit and left <= 0:
                break
            arrays = tokenised(file, renderer, config, cache, left if limit else 0, tell)
            of_source.append(Documents(arrays.ids, arrays.supervised, arrays.offsets))
            flagged += arrays.flagged
        if flagged and not any(map(len, of_source)):
            raise InputError(all_flagged(config, flagged))
        fitting = _fitting(config, files, of_source, data)
        tokens = sum(int(part.lengths.sum()) for part in fitting)
        documents = sum(map(len, fitting))
        dropped = sum(map(len, of_source)) - documents
        parts += fitting
        seconds = time.monotonic() - began
        sources.append(Source(config.name, documents, tokens, dropped, flagged, seconds))
    return Corpus(parts, [source.documents for source in sources], sources)


def _fitting(
    config: SourceConfig, files: list[Path], parts: list[Documents], data: DataConfig
) -> list[Documents]:
    """The documents of a source that fit into a row of data.seq_len tokens."""
    fits = [part.lengths <= data.seq_len for part in parts]
    rows = sum(map(len, parts))
    if not rows:
        raise InputError(f"{config.path}: no rows")
    longer = rows - sum(int(flags.sum()) for flags in fits)
    if not longer:
        return parts
    if data.overlong == "refuse":
        n = next(n for n, flags in enumerate(fits) if not flags.all())
        row = int(np.argmin(fits[n]))
        raise InputError(
            f"{FileRows(files[n], config).place_of(row)}: {parts[n].lengths[row]:,} tokens, "
            f"data.seq_len is {data.seq_len} ({longer:,} of {rows:,} rows are longer); "
            'raise data.seq_len or set data.overlong = "drop"'
        )
    if longer == rows:
        raise InputError(f"{config.path}: every row is longer than data.seq_len = {data.seq_len}")
    return [part.where(flags) for part, flags in zip(parts, fits, strict=True)]
