"""`hala-engine bench`: flags to a BenchConfig, the result as a table or JSON."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hala_engine.cli import options
from hala_engine.errors import InputError

if TYPE_CHECKING:
    from hala_engine.benchmark.report import BenchResult

EXAMPLE = (
    "Example: hala-engine bench --config LFM2-1.2B/config.json --requests 1024 "
    "--prompt-len 50:150 --output-len 50:150 --max-batch-size 256"
)


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            help="Local Hugging Face directory, hub id, or the shipped model's name. Default: the "
            "shipped model.",
        ),
    ] = None,
    revision: options.Revision = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="config.json",
            help="Instead of --model: this architecture with random weights, in FP8 if it has a "
            "quantization_config. No checkpoint is written.",
        ),
    ] = None,
    requests: Annotated[int, typer.Option(help="Prompts of each run.")] = 128,
    prompt_len: Annotated[
        str, typer.Option(metavar="A:B", help="Tokens of a prompt, drawn evenly from A to B.")
    ] = "16:64",
    output_len: Annotated[
        str, typer.Option(metavar="A:B", help="New tokens of a request, all of which are decoded.")
    ] = "16:64",
    repeats: Annotated[int, typer.Option(help="Runs, of which medians are given.")] = 3,
    seed: Annotated[int, typer.Option(help="Of lengths, prompts and random weights.")] = 0,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="transformers",
            help="Run the same prompts through transformers' generate too: padded batches of the "
            "same size, in order of arrival.",
        ),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the result with every sample; -: to stdout."
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    kv_cache_dtype: options.KvCacheDtype = "auto",
    max_batch_size: options.MaxBatchSize = None,
    max_batched_tokens: options.MaxBatchedTokens = None,
    memory_utilization: options.MemoryUtilization = None,
    deterministic: options.Deterministic = False,
    no_prefix_caching: options.NoPrefixCaching = False,
    debug: options.Debug = False,
) -> int:
    """Measure the engine on this machine.

    Random prompts of token ids are decoded greedily to forced lengths, in one stream. The first
    token is that of one prompt alone. "Time in the host" goes to no step but to the scheduler,
    tokens and Python; a GPU computes meanwhile.

    Exit codes: 0 done; 1 failed; 2 bad input; 130, 143 stopped by a signal.
    """
    # Here and not above: these bring numpy, then torch, which --help can do without.
    from hala_engine.benchmark.workload import Workload, parse_range

    ranges = parse_range("--prompt-len", prompt_len), parse_range("--output-len", output_len)
    workload = Workload(requests, *ranges, seed)
    _check_parent(json_file)

    from hala_engine.benchmark.config import BenchConfig
    from hala_engine.benchmark.run import run
    from hala_engine.engine import EngineConfig

    limits = {
        "max_batch_size": max_batch_size,
        "max_batched_tokens": max_batched_tokens,
        "memory_utilization": memory_utilization,
    }
    engine = EngineConfig(
        device=device,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        deterministic=deterministic,
        prefix_caching=not no_prefix_caching,
        seed=seed,
        **{name: value for name, value in limits.items() if value is not None},
    )
    result = run(
        BenchConfig(workload, model, revision, config, engine, repeats, baseline),
        say=lambda line: print(line, file=sys.stderr),
    )
    _print(result, json_file)
    return 0


def _check_parent(json_file: str | None) -> None:
    if json_file not in (None, "-") and not Path(json_file).parent.is_dir():
        raise InputError(f"--json {json_file}: there is no directory {Path(json_file).parent}")


def _print(result: "BenchResult", json_file: str | None) -> None:
    from rich.console import Console

    text = json.dumps(result.to_dict(), indent=1)
    if json_file == "-":
        print(text)
        return
    if json_file is not None:
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    console = Console()
    console.print(result.heading(), highlight=False)
    console.print(result.table(), highlight=False)
