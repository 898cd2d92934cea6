"""What FP8 costs a translator: the perplexity of human or held-out translations before and after.

    python -m bench.fp8_quality --tatoeba DEV.tsv --json result.json

quantizes a model with each scheme through the command line and scores the target side of every
pair, given the source in the translation prompt, three times: with the model as it is, with FP8
weights (what a CPU computes: they are de-quantized), and with FP8 weights and activations (what a
GPU computes, here by the kernels' references).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import typer
from rich.console import Console
from rich.table import Table

from bench import machine
from hala_engine import Engine, EngineConfig, SamplingParams
from hala_tools.miniature.corpus import read_tatoeba
from hala_tools.miniature.score import drawn_heldout

PROMPT = "Translate from English to Arabic: {text}"
SHIPPED = Path(__file__).resolve().parent.parent / "hala_engine/assets/hala-mini-en-ar"
SCHEMES = ("fp8-dynamic", "fp8-block")

Pairs = list[tuple[str, str]]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    model: Annotated[Path, typer.Option(help="A model directory.")] = SHIPPED,
    tatoeba: Annotated[Path | None, typer.Option(help="English and Arabic, tab separated.")] = None,
    limit: Annotated[int | None, typer.Option(help="Pairs of each set.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    sets = {"held-out combinations of the grammar": drawn_heldout()[:limit]}
    if tatoeba:
        sets["Tatoeba dev"] = read_tatoeba(tatoeba, strip=False)[:limit]
    results = [row for name, pairs in sets.items() for row in compare(model, name, pairs)]
    table = Table("pairs", "weights", "activations", "perplexity", "change")
    for row in results:
        change = f"{row['change']:+.3%}" if row["weights"] != "as they are" else ""
        cells = (row["pairs"], row["weights"], row["activations"])
        table.add_row(*cells, f"{row['perplexity']:.4f}", change)
    Console().print(table)
    if json_file:
        record = {**machine.commit(), "versions": machine.versions(), "results": results}
        json_file.write_text(json.dumps(record, indent=2) + "\n")


def compare(model: Path, name: str, pairs: Pairs) -> Iterator[dict]:
    """A row for each form of the model."""

    def row(weights: str, activations: str, value: float) -> dict:
        change = value / plain - 1
        names = {"pairs": name, "weights": weights, "activations": activations}
        return {**names, "perplexity": value, "change": change}

    plain = perplexity(model, pairs)
    yield row("as they are", "float32", plain)
    for scheme in SCHEMES:
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "fp8"
            command = [sys.executable, "-m", "hala_engine.cli", "quantize", str(model), str(target)]
            subprocess.run([*command, "--scheme", scheme], check=True, capture_output=True)
            yield row(scheme, "float32", perplexity(target, pairs))
            with fp8_products():
                yield row(scheme, "FP8", perplexity(target, pairs))


def perplexity(model: Path, pairs: Pairs) -> float:
    """exp of the mean negative log-probability of the targets' tokens, end of turn included."""
    engine = Engine(model, config=EngineConfig(device="cpu", dtype="float32"))
    params = SamplingParams(max_new_tokens=1, prompt_logprobs=True)
    asked = [
        engine.tokenizer.apply_chat([{"role": "user", "content": PROMPT.format(text=source)}])
        for source, _ in pairs
    ]
    whole = [
        ids + engine.tokenizer.encode(target) + [engine.tokenizer.eos_id]
        for ids, (_, target) in zip(asked, pairs, strict=True)
    ]
    total = tokens = 0
    for start, output in zip(map(len, asked), engine.generate(whole, params), strict=True):
        scores = output.prompt_logprobs[start:]
        total, tokens = total - sum(scores), tokens + len(scores)
    return math.exp(total / tokens)


@contextmanager
def fp8_products() -> Iterator[None]:
    """FP8 weights stay FP8 on the CPU too, and are multiplied as on a GPU."""
    with patch("hala_engine.engine.multiplies_fp8", lambda device: True):
        yield


if __name__ == "__main__":
    app()
