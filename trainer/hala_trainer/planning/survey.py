"""What a recipe's data amounts to, from a sample: rows, tokens, and how full packed rows will be.

Tokenising a corpus takes an hour; looking at some rows of some of its files takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from hala_trainer.config import DataConfig, SourceConfig
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.data.packing import best_fit
from hala_trainer.data.rows import FileRows, all_flagged, data_files
from hala_trainer.errors import InputError

SAMPLE_FILES = 10  # of a source, evenly spaced
SAMPLE_ROWS = 2000  # of a source, from the starts of those files
DRAWN = 20_000  # documents that are packed to see how full rows get


@dataclass(frozen=True)
class Source:
    """One entry of data.train or data.eval; `problem` says why training would refuse it."""

    name: str
    files: int = 0
    rows: int = 0
    exact: bool = False  # all rows were looked at
    # tokens of the sample's rows, int64
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    supervised: float = 0.0  # share of its tokens
    problem: str = ""
    weight: float = 1.0  # passes over it per epoch
    flagged: float = 0.0  # share of its rows, which are left out and not among `rows`

    @property
    def tokens(self) -> int:
        return round(self.rows * float(self.lengths.mean())) if len(self.lengths) else 0


@dataclass(frozen=True)
class Epoch:
    """One epoch of data.train. `documents`: lengths of some, in the proportions of the sources."""

    documents: np.ndarray  # int64
    tokens: float
    rows: int  # packed
    fill: float  # share of a row's places that hold a token
    supervised: float  # share of the tokens


def survey(source: SourceConfig, renderer: ChatRenderer, data: DataConfig) -> Source:
    """Look at one source. What is wrong with it becomes its `problem`."""
    name = source.name
    try:
        files = data_files(Path(source.path))
        spaced = files[:: -(-len(files) // SAMPLE_FILES)]
        each = SAMPLE_ROWS // len(spaced)
        lengths, learnt, tokens, flagged, problem = [], 0, 0, 0, ""
        for file in spaced:
            found = FileRows(file, source)
            encoded = renderer.encode(list(islice(found, each)))
            flagged += found.flagged
            longer = np.flatnonzero(encoded.lengths > data.seq_len)
            if len(longer) and data.overlong == "refuse" and not problem:
                problem = (
                    f"{found.place_of(int(longer[0]))}: {encoded.lengths[longer[0]]:,} tokens, "
                    f'data.seq_len is {data.seq_len}; raise it or set data.overlong = "drop"'
                )
            lengths.append(encoded.lengths)
            learnt += int(encoded.supervised.sum())
            tokens += len(encoded.ids)
        rows = [count_rows(file, each) for file in files]
    except InputError as error:
        return Source(name, problem=str(error))
    sample = np.concatenate(lengths)
    if not len(sample):
        problem = all_flagged(source, flagged) if flagged else f"{source.path}: no rows"
        return Source(name, len(files), problem=problem)
    seen = len(sample) + flagged
    return Source(
        name,
        files=len(files),
        rows=round(sum(rows) * len(sample) / seen),
        exact=sum(rows) == seen,
        lengths=sample,
        supervised=learnt / tokens,
        problem=problem,
        weight=source.weight,
        flagged=flagged / seen,
    )


def count_rows(path: Path, looked_at: int) -> int:
    """Rows of a file: of .jsonl by its size and its first lines, unless those are all of it."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    with path.open("rb") as lines:
        head = [line for line in islice(lines, looked_at) if line.strip()]
        rest = path.stat().st_size - lines.tell()
    size = sum(map(len, head))
    return len(head) + (round(rest * len(head) / size) if rest > 0 else 0)


def epoch(sources: Sequence[Source], data: DataConfig) -> Epoch | None:
    """What an epoch over all sources will be, or None when no source could be read."""
    rng = np.random.default_rng(data.seed)
    wanted = [source.rows * source.weight for source in sources]
    drawn, documents, tokens, learnt = [], 0.0, 0.0, 0.0
    for source, passes in zip(sources, wanted, strict=True):
        fitting = source.lengths[source.lengths <= data.seq_len]
        if len(fitting):
            drawn.append(rng.choice(fitting, max(1, round(DRAWN * passes / sum(wanted)))))
            kept = passes * len(fitting) / len(source.lengths)
            documents += kept
            tokens += kept * float(fitting.mean())
            learnt += kept * float(fitting.mean()) * source.supervised
    if not drawn:
        return None
    lengths = np.concatenate(drawn)
    if data.packing == "none":
        fill = float(lengths.mean()) / data.seq_len
        rows = round(documents)
    else:
        packed = int(best_fit(lengths, data.seq_len).max()) + 1
        fill = float(lengths.sum()) / (packed * data.seq_len)
        rows = max(1, round(tokens / (fill * data.seq_len)))
    return Epoch(lengths, tokens, rows, fill, learnt / tokens)
