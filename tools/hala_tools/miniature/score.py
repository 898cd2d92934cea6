"""Scores of a model on the held-out pairs and on Tatoeba, through the public translate command."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hala_tools.miniature.corpus import PROMPTS, build_corpus, read_tatoeba, write_jsonl

Pairs = list[tuple[str, str]]
DIRECTIONS = (("en", "ar"), ("ar", "en"))


class ScoreError(Exception):
    """The translation failed; the message is one line."""


def run(
    model: str, heldout: Path | None, tatoeba: Path | None, limit: int | None, out: Path | None
) -> dict:
    sets = {"held-out": read_heldout(heldout) if heldout else drawn_heldout()}
    if tatoeba:
        sets["tatoeba"] = read_tatoeba(tatoeba, strip=False)
    results: dict[str, dict] = {}
    for name, pairs in sets.items():
        for source, target in DIRECTIONS:
            results[f"{name} {source}-{target}"] = score_set(model, pairs[:limit], source, target)
    Console().print(table(results))
    for result in next(iter(results.values()))["metrics"].values():
        Console().print(result["signature"], markup=False, highlight=False, soft_wrap=True)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"model": model, "results": results}, indent=2, ensure_ascii=False)
        out.write_text(text + "\n", encoding="utf-8")
    return results


def drawn_heldout() -> Pairs:
    return [(sentence.en, sentence.ar) for sentence in build_corpus().heldout]


def read_heldout(path: Path) -> Pairs:
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return [(row["en"], row["ar"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreError(f"{path}: not a file of held-out pairs ({error})") from error


def score_set(model: str, pairs: Pairs, source: str, target: str) -> dict:
    """Translate one side of `pairs` and compare it with the other.

    An English sentence of Tatoeba may stand several times with different Arabic: all its
    translations are references, and it is translated once.
    """
    references: dict[str, list[str]] = {}
    for english, arabic in pairs:
        given, wanted = (english, arabic) if source == "en" else (arabic, english)
        references.setdefault(given, []).append(wanted)
    outputs = translate(model, list(references), source, target)
    return measure(outputs, list(references.values()))


def translate(model: str, sources: Sequence[str], source: str, target: str) -> list[str]:
    """`hala-engine translate` on a temporary file, as a user would call it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "source.jsonl"
        output = Path(folder) / "out"
        write_jsonl(rows, ({"text": text} for text in sources))
        command = [
            sys.executable, "-m", "hala_engine.cli", "translate", str(rows),
            "--output", str(output), "--model", model, "--source", source, "--target", target,
            "--prompt", PROMPTS[target].replace("{}", "{text}"),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 3):  # 3: some rows failed, which count as empty
            raise ScoreError(f"hala-engine translate ended with exit code {done.returncode}")
        return read_outputs(output, sources, f"text_{target}")


def read_outputs(output: Path, sources: Sequence[str], column: str) -> list[str]:
    """Translations in the order of `sources`; a row that failed is an empty string."""
    translated = {}
    for shard in sorted((output / "data").glob("part-*.jsonl")):
        with shard.open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                translated[row["text"]] = row[column]
    if not translated:
        raise ScoreError(f"{output}: no translated rows")
    return [translated.get(text, "") for text in sources]


def measure(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
    """chrF++, BLEU under two tokenizers, and the share of exact matches."""
    from sacrebleu.metrics import BLEU, CHRF

    most = max(map(len, references))
    # sacrebleu wants one stream per reference index; None marks a missing one.
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    metrics = {}
    for name, metric in (
        ("chrF++", CHRF(word_order=2)),
        ("BLEU 13a", BLEU(tokenize="13a")),
        ("BLEU intl", BLEU(tokenize="intl")),
    ):
        value = metric.corpus_score(list(outputs), streams).score
        metrics[name] = {"score": round(value, 2), "signature": str(metric.get_signature())}
    exact = sum(o in r for o, r in zip(outputs, references, strict=True)) / len(outputs)
    return {"sentences": len(outputs), "exact": round(100 * exact, 2), "metrics": metrics}


def table(results: dict[str, dict]) -> Table:
    view = Table("set", "sentences", "chrF++", "BLEU 13a", "BLEU intl", "exact %")
    for name, result in results.items():
        scores = [f"{m['score']:.1f}" for m in result["metrics"].values()]
        view.add_row(name, f"{result['sentences']:,}", *scores, f"{result['exact']:.1f}")
    return view
