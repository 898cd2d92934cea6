"""`hala-engine inspect`: flags to an EngineConfig, the result as tables or JSON."""

import json
from typing import Annotated

import typer

from hala_engine.cli import options

EXAMPLE = "Example: hala-engine inspect LiquidAI/LFM2-1.2B --device cuda --max-batch-size 256"


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="M", help="Local Hugging Face directory, hub id, or the shipped model's name."
        ),
    ],
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_batch_size: options.MaxBatchSize = None,
    max_batched_tokens: options.MaxBatchedTokens = None,
    memory_utilization: options.MemoryUtilization = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes.")] = False,
    debug: options.Debug = False,
) -> int:
    """Say what a checkpoint holds, and how much of it fits on this machine.

    Reads config.json and the headers of the weights, not the weights. A hub model is downloaded
    first. Finds the faults that would keep the checkpoint from being loaded.

    Exit codes: 0 done; 2 bad input.
    """
    # Here and not above: these bring torch, which --help can do without.
    from rich.console import Console

    from hala_engine.engine import EngineConfig
    from hala_engine.inspection import inspect_model

    given = {
        "max_batch_size": max_batch_size,
        "max_batched_tokens": max_batched_tokens,
        "memory_utilization": memory_utilization,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = EngineConfig(device=device, dtype=dtype, **given)
    inspection = inspect_model(model, revision=revision, config=config)
    if as_json:
        print(json.dumps(inspection.to_dict(), indent=1))
        return 0
    console = Console()
    for part in inspection.tables():
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    return 0
