"""Writing the corpus, the training rows, the tokenizer and the model's configuration."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from hala_tools.miniature import tokenizer as vocabulary
from hala_tools.miniature.corpus import (
    Corpus,
    build_corpus,
    messages,
    pair_rows,
    read_tatoeba,
    training_rows,
    write_jsonl,
)
from hala_tools.miniature.model_config import CONTEXT, count_parameters, write_config

EVAL_ROWS = 400


@dataclass(frozen=True)
class Report:
    corpus: Corpus
    tatoeba_pairs: int
    rows: int
    tokens_per_row: float
    longest_row: int
    vocabulary: int
    parameters: int
    english_words: float


def build(out: Path, tatoeba: Path | None, size: int, seed: int) -> Report:
    corpus = build_corpus(size, seed)
    human = read_tatoeba(tatoeba, strip=True) if tatoeba else []
    write_jsonl(out / "pairs" / "train.jsonl", pair_rows(corpus.train))
    write_jsonl(out / "pairs" / "heldout.jsonl", pair_rows(corpus.heldout))

    pairs = [(s.en, s.ar) for s in corpus.train]
    sample = random.Random(seed).sample(pairs, min(len(pairs), vocabulary.SAMPLE))
    lines = vocabulary.sample_lines([*sample, *human], seed)
    tokenizer = vocabulary.build_tokenizer(lines)
    vocabulary.save_tokenizer(tokenizer, out / "init", CONTEXT)
    values = write_config(out / "init", tokenizer.get_vocab_size())

    rows = training_rows(corpus.train, human, seed)
    lengths = _row_lengths(tokenizer, rows)
    # Rows beyond the model's context could only be learnt in part.
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= CONTEXT]
    lengths = [length for length in lengths if length <= CONTEXT]
    write_jsonl(out / "train.jsonl", kept)
    write_jsonl(out / "eval.jsonl", _eval_rows(corpus))
    words = sum(len(s.en.split()) for s in corpus.train) / len(corpus.train)
    return Report(
        corpus,
        len(human),
        len(kept),
        sum(lengths) / len(lengths),
        max(lengths),
        tokenizer.get_vocab_size(),
        count_parameters(values),
        words,
    )


def _eval_rows(corpus: Corpus) -> list[dict]:
    rows = []
    for sentence in corpus.heldout[: EVAL_ROWS // 2]:
        rows.append(messages(sentence.en, sentence.ar, "ar"))
        rows.append(messages(sentence.ar, sentence.en, "en"))
    return rows


def _row_lengths(tokenizer, rows: list[dict]) -> list[int]:
    texts = [
        "<|startoftext|>"
        + "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])
        for row in rows
    ]
    lengths = []
    for start in range(0, len(texts), 10_000):
        batch = tokenizer.encode_batch_fast(texts[start : start + 10_000], add_special_tokens=False)
        lengths += [len(e.ids) for e in batch]
    return lengths
