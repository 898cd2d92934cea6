"""Flags that several commands share, so that they have one name and one explanation."""

from typing import Annotated

import typer

from hala_engine.errors import InputError

GENERATION = "Generation"
ENGINE = "Engine"

Model = Annotated[
    str, typer.Option(help="Local Hugging Face directory, hub id, or the shipped model's name.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        help="Most tokens per output; by default from the source's length.",
        rich_help_panel=GENERATION,
    ),
]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=GENERATION)]
TopP = Annotated[float, typer.Option(help="1 is off.", rich_help_panel=GENERATION)]
TopK = Annotated[int, typer.Option(help="0 is off.", rich_help_panel=GENERATION)]
MinP = Annotated[float, typer.Option(help="0 is off.", rich_help_panel=GENERATION)]
Seed = Annotated[int, typer.Option(help="For sampling.", rich_help_panel=GENERATION)]
RepetitionPenalty = Annotated[float, typer.Option(help="1 is off.", rich_help_panel=GENERATION)]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Text that ends an output; may be repeated.", rich_help_panel=GENERATION),
]

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=ENGINE)]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel=ENGINE)]
KvCacheDtype = Annotated[str, typer.Option(help="auto or fp8.", rich_help_panel=ENGINE)]
MaxBatchSize = Annotated[
    int | None, typer.Option(help="Most sequences that run at once.", rich_help_panel=ENGINE)
]
MaxBatchedTokens = Annotated[
    int | None, typer.Option(help="Most tokens of one step.", rich_help_panel=ENGINE)
]
MemoryUtilization = Annotated[
    float | None,
    typer.Option(help="Share of the free memory for the cache.", rich_help_panel=ENGINE),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Greedy output does not depend on what else is in the batch.",
        rich_help_panel=ENGINE,
    ),
]
NoPrefixCaching = Annotated[
    bool,
    typer.Option(
        "--no-prefix-caching",
        help="Compute what prompts have in common at their start for each of them.",
        rich_help_panel=ENGINE,
    ),
]
DataParallel = Annotated[int, typer.Option(help="1 for now.", rich_help_panel=ENGINE)]
TensorParallel = Annotated[int, typer.Option(help="1 for now.", rich_help_panel=ENGINE)]


def check_parallel(data_parallel: int, tensor_parallel: int) -> None:
    """Raises InputError unless both are 1."""
    for flag, value in (("--data-parallel", data_parallel), ("--tensor-parallel", tensor_parallel)):
        if value != 1:
            raise InputError(f"{flag} {value}: only 1 is supported yet")
