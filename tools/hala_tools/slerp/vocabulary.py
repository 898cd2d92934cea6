"""Vocabularies that differ: rows of the embedding and of the output projection, matched by token.

The result has the vocabulary of one of the models, the source. A token that the other model has as
well is merged from both rows, wherever they stand; one that it lacks, and padding rows beyond the
tokenizer's ids, are merged as if both models had the source's row. Tokens of the other model alone
are dropped. The angle is that of the matrices after the matching.
"""

from __future__ import annotations

import filecmp
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hala_tools.slerp.checkpoint import DTYPES, Checkpoint, Tensor
from hala_tools.slerp.errors import InputError
from hala_tools.slerp.request import Side

TOKENIZER = "tokenizer.json"
_TABLES = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "lm_head", "embed_out")
_ABSENT = -1


def is_vocabulary(name: str) -> bool:
    """Whether the first axis of tensor `name` is that of the tokens."""
    return name.split(".")[-2:][0] in _TABLES


@dataclass(frozen=True)
class AlignedRows:
    """Rows of `tensor` in the order of another model's vocabulary: row i is its row `rows[i]`, or
    row i of `source` where that is -1."""

    tensor: Tensor
    source: Tensor
    rows: np.ndarray  # [vocabulary] int64

    @property
    def path(self) -> Path:
        return self.tensor.path

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] elements, in the tensor's dtype."""
        width = self.tensor.size // self.tensor.shape[0]
        first, last = start // width, -(-stop // width)
        rows = self.rows[first:last]
        present = rows != _ABSENT
        values = np.empty((last - first, width), DTYPES[self.tensor.dtype])
        values[present] = self.tensor.read(0, self.tensor.size).reshape(-1, width)[rows[present]]
        own = self.source.read(first * width, last * width).reshape(-1, width)
        values[~present] = own[~present]
        return values.reshape(-1)[start - first * width : stop - first * width]

    def announce(self, start: int, stop: int) -> None:
        """Its rows may be anywhere: nothing is read ahead."""


@dataclass(frozen=True)
class Alignment:
    """The result has `rows.size` tokens, the first of the model `source`; `rows`: the other
    model's id of each, -1 where it lacks the token."""

    source: Side
    rows: np.ndarray  # int64

    def sources(
        self, base: Tensor, tuned: Tensor
    ) -> tuple[tuple[Tensor | AlignedRows, Tensor | AlignedRows], tuple[int, ...]]:
        """What is read of the two for a table of the vocabulary, and the shape of the result."""
        own, other = (base, tuned) if self.source == "base" else (tuned, base)
        if own.shape[1:] != other.shape[1:]:
            raise InputError(
                f"tensor {base.name} has shape {list(base.shape)} in {base.path} and "
                f"{list(tuned.shape)} in {tuned.path}; only models of the same width can be merged"
            )
        if own.shape[0] < self.rows.size or other.shape[0] <= self.rows.max(initial=_ABSENT):
            raise InputError(
                f"tensor {base.name} has fewer rows than its tokenizer has tokens "
                f"({list(base.shape)} in {base.path}, {list(tuned.shape)} in {tuned.path})"
            )
        shape = (self.rows.size, *own.shape[1:])
        aligned = AlignedRows(other, own, self.rows)
        kept = replace(own, shape=shape)
        return ((kept, aligned) if self.source == "base" else (aligned, kept)), shape


def align(
    base: Checkpoint, tuned: Checkpoint, source: Side | None, parity: bool = False
) -> Alignment | None:
    """How the vocabularies are brought together, None if row by row.

    With `parity` the result has as many rows as its tokenizer has tokens, as in MergeKit: padding
    rows go. Raises InputError if a tokenizer is wanted and not there.
    """
    if source is None:
        return None
    own, other = (base, tuned) if source == "base" else (tuned, base)
    own_ids, other_ids = _token_ids(own.directory), _token_ids(other.directory)
    if own_ids is None or other_ids is None:
        if _rows(own) == _rows(other):
            return None
        missing = own if own_ids is None else other
        raise InputError(
            f"{missing.directory} has no {TOKENIZER}, by whose tokens the vocabularies could be "
            "brought together; save its tokenizer there (transformers: save_pretrained)"
        )
    count = len(own_ids) if parity else _rows(own)
    if own_ids == other_ids and count == _rows(own) == _rows(other):
        return None
    rows = np.arange(count)
    rows[:] = _ABSENT
    for token, i in own_ids.items():
        if i < count and (found := other_ids.get(token, _ABSENT)) < _rows(other):
            rows[i] = found
    return Alignment(source, rows)


def tokens_apart(base: Path, tuned: Path) -> int:
    """Ids that stand for different tokens in the two models' tokenizers."""
    paths = base / TOKENIZER, tuned / TOKENIZER
    if not all(path.exists() for path in paths) or filecmp.cmp(*paths, shallow=False):
        return 0
    first, second = _token_ids(base), _token_ids(tuned)
    return len({i for _, i in first.items() ^ second.items()})


def _rows(model: Checkpoint) -> int:
    """Of the embedding."""
    return next((t.shape[0] for n, t in model.tensors.items() if is_vocabulary(n)), 0)


def _token_ids(directory: Path) -> dict[str, int] | None:
    from tokenizers import Tokenizer  # here, since most merges can do without

    path = directory / TOKENIZER
    if not path.exists():
        return None
    try:
        return Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} cannot be read as a tokenizer: {error}") from None
