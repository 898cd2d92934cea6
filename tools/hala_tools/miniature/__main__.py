"""python -m hala_tools.miniature: build the corpus, score a model on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hala_tools.miniature.corpus import DEFAULT_SIZE

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """The miniature English-Arabic corpus and the scores of models trained on it."""


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to write, for example runs/miniature.")],
    tatoeba: Annotated[
        Path | None, typer.Option(help="Tab-separated English, Arabic; added to training.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    size: Annotated[int, typer.Option(min=200, help="Distinct training pairs.")] = DEFAULT_SIZE,
) -> None:
    """Write pairs, training rows, tokenizer and model configuration.

    Example: python -m hala_tools.miniature build --out runs/miniature
    """
    from hala_tools.miniature.build import build as write

    console = Console(stderr=True)
    if tatoeba and not tatoeba.is_file():
        console.print(f"error: {tatoeba}: no such file; give the path of a Tatoeba train.tsv")
        raise typer.Exit(2)
    try:
        report = write(out, tatoeba, size, seed)
    except ValueError as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(2) from None
    corpus = report.corpus
    console.print(
        f"{len(corpus.train):,} training pairs, {len(corpus.heldout):,} held out, "
        f"{report.tatoeba_pairs:,} of Tatoeba; {report.english_words:.1f} English words a pair\n"
        f"{report.rows:,} training rows of {report.tokens_per_row:.1f} tokens on average, "
        f"at most {report.longest_row}\n"
        f"vocabulary {report.vocabulary}, model of {report.parameters:,} parameters\n"
        f"drawn and not kept: {dict(corpus.refused)}\nwritten to {out}"
    )


@app.command()
def score(
    model: Annotated[str, typer.Option(help="Directory of the model.")],
    heldout: Annotated[
        Path | None, typer.Option(help="pairs/heldout.jsonl; without it, drawn anew.")
    ] = None,
    tatoeba: Annotated[Path | None, typer.Option(help="A Tatoeba dev.tsv, scored as well.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many pairs.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
) -> None:
    """Translate both ways with `hala-engine translate` and print sacrebleu scores.

    Example: python -m hala_tools.miniature score --model runs/hala-mini-en-ar/final
    """
    from hala_tools.miniature.score import ScoreError, run

    try:
        run(model, heldout, tatoeba, limit, json_file)
    except ScoreError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
