"""`python -m bench.deterministic_cpu`: what `--deterministic` costs on the CPU.

The mixed workload of the CPU benchmark through two engines of one process in turn, one of them
deterministic: LFM2-350M's dimensions with random weights, and the shipped model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import machine
from bench.checkpoint import TINY, Dims, ensure
from bench.summary import quartiles
from bench.workload import Workload, mixed
from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.weights.directory import SHIPPED_MODEL

MODES = {"plain": False, "deterministic": True}


def compare(model: str, workload: Workload, dtype: str, repeats: int) -> dict[str, Any]:
    """New tokens a second of both modes, every sample, and the ratio of the medians."""
    engines = {
        mode: Engine(
            model,
            config=EngineConfig(
                device="cpu",
                dtype=dtype,
                max_batch_size=workload.batch,
                max_model_len=workload.longest(),
                deterministic=deterministic,
            ),
        )
        for mode, deterministic in MODES.items()
    }
    vocab = next(iter(engines.values())).model.config.vocab_size
    _, wanted = workload.lengths()
    params = [SamplingParams(max_new_tokens=n, ignore_eos=True) for n in wanted]
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for repeat in range(1 + repeats):
        for mode in MODES if repeat % 2 else reversed(MODES):
            prompts = Workload(**{**workload.to_dict(), "seed": repeat}).prompts(vocab)
            start = time.perf_counter()
            tokens = sum(
                len(output.token_ids) for output in engines[mode].generate(prompts, params)
            )
            if repeat:  # the first warms up
                rates[mode].append(tokens / (time.perf_counter() - start))
    medians = {mode: quartiles(found)["median"] for mode, found in rates.items()}
    return {
        "workload": workload.to_dict(),
        "dtype": dtype,
        "tokens_per_s": rates,
        "medians": medians,
        "deterministic_over_plain": medians["deterministic"] / medians["plain"],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.deterministic_cpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--tiny", action="store_true", help="a toy model and few requests")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    name, dims = ("tiny", TINY) if options.tiny else ("lfm2-350m", Dims())
    directory = str(ensure(options.cache_dir / name, dims).resolve())
    requests = 6 if options.tiny else 128
    short = Workload(SHIPPED_MODEL, 12 if options.tiny else 1000, 64, (16, 64), (4, 32))
    models = {name: (directory, mixed(requests)), SHIPPED_MODEL: (SHIPPED_MODEL, short)}
    result: dict[str, Any] = {
        "bench": "deterministic_cpu",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.cpu(),
        "versions": machine.versions(),
        **machine.commit(),
        "models": {},
    }
    console = Console()
    for model, (path, workload) in models.items():
        for dtype in ("bfloat16", "float32"):
            if dtype == "float32" and model != SHIPPED_MODEL:
                continue
            found = compare(path, workload, dtype, options.repeats)
            result["models"][f"{model}, {dtype}"] = found
            plain, deterministic = found["medians"].values()
            console.print(
                f"{model}, {dtype}: {plain:.0f} new tokens/s, deterministic {deterministic:.0f} "
                f"({found['deterministic_over_plain']:.2f}x)",
                highlight=False,
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
