"""Flags that several commands share, so that they have one name and one explanation."""

from typing import TYPE_CHECKING, Annotated

import typer

from hala_engine.errors import InputError

if TYPE_CHECKING:
    from hala_engine.jobs.job import JobResult

INPUTS_HELP = (
    "Files or directories of them: .jsonl .json .csv .tsv .txt (also .gz, .zst), .parquet .arrow; "
    "a directory of save_to_disk; hf://owner/name:split or hf://owner/name/config:split."
)

GENERATION = "Generation"
JOB = "Job"
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


Format = Annotated[
    str | None, typer.Option(help="jsonl or parquet; by default the input's.", rich_help_panel=JOB)
]
ShardRows = Annotated[int, typer.Option(help="Rows per file.", rich_help_panel=JOB)]
Shard = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Make only the I-th of N parts (from 1), each into a directory of its own.",
        rich_help_panel=JOB,
    ),
]
Limit = Annotated[int | None, typer.Option(help="Stop after so many rows.", rich_help_panel=JOB)]
MaxFailures = Annotated[
    int | None,
    typer.Option(help="Give up when more rows than this fail.", rich_help_panel=JOB),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Begin anew: remove what an earlier job left.", rich_help_panel=JOB
    ),
]


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of "I/N". Raises InputError."""
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal()):
        raise InputError(f"--shard {text!r}: give I/N, such as 1/4")
    return int(index), int(of)


def job_summary(result: "JobResult") -> str:
    """The line that a job ends with."""
    job, run = result.job, result.run
    counts = f"{job.rows:,} rows ({job.failed_rows:,} failed, {sum(job.flags.values()):,} flags)"
    if set(job.written) <= {"data"} and job.rows_written < job.rows:
        counts += f", {job.rows_written:,} written"
    if not set(job.written) <= {"data"}:
        counts += "".join(f", {rows:,} {folder}" for folder, rows in job.written.items())
    if result.already_complete:
        return f"already complete: {counts} in {result.output}"
    seconds = max(run.seconds, 1e-9)
    return (
        f"{counts} in {result.output}; this run: {run.rows:,} rows in {run.seconds:,.1f} s, "
        f"{run.rows / seconds:,.1f} rows/s, {result.tokens_read / seconds:,.0f} tokens/s in, "
        f"{result.tokens_written / seconds:,.0f} out"
    )


def check_parallel(data_parallel: int, tensor_parallel: int) -> None:
    """Raises InputError unless both are 1."""
    for flag, value in (("--data-parallel", data_parallel), ("--tensor-parallel", tensor_parallel)):
        if value != 1:
            raise InputError(f"{flag} {value}: only 1 is supported yet")
