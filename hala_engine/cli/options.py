"""Flags that several commands share, so that they have one name and one explanation."""

from typing import Annotated

import typer

_GENERATION = "Generation"
_ENGINE = "Engine"

Model = Annotated[
    str, typer.Option(help="Local Hugging Face directory, hub id, or the shipped model's name.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        help="Most tokens per output; by default from the source's length.",
        rich_help_panel=_GENERATION,
    ),
]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=_GENERATION)]
TopP = Annotated[float, typer.Option(help="1 is off.", rich_help_panel=_GENERATION)]
TopK = Annotated[int, typer.Option(help="0 is off.", rich_help_panel=_GENERATION)]
MinP = Annotated[float, typer.Option(help="0 is off.", rich_help_panel=_GENERATION)]
Seed = Annotated[int, typer.Option(help="For sampling.", rich_help_panel=_GENERATION)]
RepetitionPenalty = Annotated[float, typer.Option(help="1 is off.", rich_help_panel=_GENERATION)]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Text that ends an output; may be repeated.", rich_help_panel=_GENERATION),
]

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_ENGINE)]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel=_ENGINE)]
KvCacheDtype = Annotated[str, typer.Option(help="auto or fp8.", rich_help_panel=_ENGINE)]
MaxBatchSize = Annotated[
    int | None, typer.Option(help="Most sequences that run at once.", rich_help_panel=_ENGINE)
]
MaxBatchedTokens = Annotated[
    int | None, typer.Option(help="Most tokens of one step.", rich_help_panel=_ENGINE)
]
MemoryUtilization = Annotated[
    float | None,
    typer.Option(help="Share of the free memory for the cache.", rich_help_panel=_ENGINE),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Greedy output does not depend on what else is in the batch.",
        rich_help_panel=_ENGINE,
    ),
]
DataParallel = Annotated[int, typer.Option(help="1 for now.", rich_help_panel=_ENGINE)]
TensorParallel = Annotated[int, typer.Option(help="1 for now.", rich_help_panel=_ENGINE)]
