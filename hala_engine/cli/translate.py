"""`hala-engine translate`: flags to a TranslateConfig, its result to a line and an exit code."""

from typing import TYPE_CHECKING, Annotated

import typer

from hala_engine.cli import options
from hala_engine.cli.exits import SOME_ROWS_FAILED
from hala_engine.errors import InputError

if TYPE_CHECKING:
    from hala_engine.translate import JobResult

EXAMPLE = "Example: hala-engine translate orca.jsonl --columns question,response --output orca-ar"

_JOB = "Job"


def translate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files or directories: .jsonl .json .csv .tsv .txt (also .gz), .parquet.",
        ),
    ],
    output: Annotated[str, typer.Option(metavar="DIR", help="Directory of the translation.")],
    model: options.Model = "hala-mini-en-ar",
    revision: options.Revision = None,
    columns: Annotated[str, typer.Option(help="Columns to translate: a,b.")] = "text",
    source: Annotated[str, typer.Option(help="Language code of the input.")] = "en",
    target: Annotated[str, typer.Option(help="Language code of the output.")] = "ar",
    prompt: Annotated[
        str, typer.Option(help='Text with {text} in it, or a preset: "teacher" or "hala".')
    ] = "teacher",
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Prompt with plain text.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_segment_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longer text is cut at paragraphs, then sentences; by default a third of the "
            "model's context."
        ),
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = 0,
    stop: options.Stop = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    kv_cache_dtype: options.KvCacheDtype = "auto",
    max_batch_size: options.MaxBatchSize = None,
    max_batched_tokens: options.MaxBatchedTokens = None,
    memory_utilization: options.MemoryUtilization = None,
    deterministic: options.Deterministic = False,
    no_prefix_caching: options.NoPrefixCaching = False,
    data_parallel: options.DataParallel = 1,
    tensor_parallel: options.TensorParallel = 1,
    format: Annotated[
        str | None,
        typer.Option(help="jsonl or parquet; by default the input's.", rich_help_panel=_JOB),
    ] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows per file.", rich_help_panel=_JOB)] = 10_000,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Make only the I-th of N parts (from 1), each into a directory of its own.",
            rich_help_panel=_JOB,
        ),
    ] = "1/1",
    limit: Annotated[
        int | None, typer.Option(help="Stop after so many rows.", rich_help_panel=_JOB)
    ] = None,
    drop_flagged: Annotated[
        bool,
        typer.Option(
            "--drop-flagged",
            help="Leave out rows that have a flag or failed.",
            rich_help_panel=_JOB,
        ),
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(help="Give up when more rows than this fail.", rich_help_panel=_JOB),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Begin anew: remove what an earlier job left.", rich_help_panel=_JOB
        ),
    ] = False,
    debug: options.Debug = False,
) -> int:
    """Translate columns of a dataset.

    The same command again resumes a job that was stopped.

    Exit codes: 0 done; 1 failed; 2 bad input; 3 done, but some rows failed (failures.jsonl);
    130, 143 stopped by a signal.
    """
    options.check_parallel(data_parallel, tensor_parallel)
    # Here and not above: it brings pyarrow, which --help can do without.
    from hala_engine.translate import (
        EngineOptions,
        GenerationOptions,
        TranslateConfig,
        translate_job,
    )

    config = TranslateConfig(
        inputs=tuple(inputs),
        output=output,
        model=model,
        revision=revision,
        columns=tuple(name.strip() for name in columns.split(",")),
        source=source,
        target=target,
        prompt=prompt,
        chat_template=not no_chat_template,
        system=system,
        max_segment_tokens=max_segment_tokens,
        format=format,
        shard_rows=shard_rows,
        shard=_parse_shard(shard),
        limit=limit,
        drop_flagged=drop_flagged,
        max_failures=max_failures,
        overwrite=overwrite,
        generation=GenerationOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=tuple(stop or ()),
        ),
        engine=EngineOptions(
            device=device,
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            max_batch_size=max_batch_size,
            max_batched_tokens=max_batched_tokens,
            memory_utilization=memory_utilization,
            deterministic=deterministic,
            prefix_caching=not no_prefix_caching,
        ),
    )
    result = translate_job(config, quiet=False)
    typer.echo(_summary(result))
    return SOME_ROWS_FAILED if result.job.failed_rows else 0


def _parse_shard(text: str) -> tuple[int, int]:
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal()):
        raise InputError(f"--shard {text!r}: give I/N, such as 1/4")
    return int(index), int(of)


def _summary(result: "JobResult") -> str:
    job, run = result.job, result.run
    counts = f"{job.rows:,} rows ({job.failed_rows:,} failed, {sum(job.flags.values()):,} flags)"
    if result.already_complete:
        return f"already complete: {counts} in {result.output}"
    seconds = max(run.seconds, 1e-9)
    return (
        f"{counts} in {result.output}; this run: {run.rows:,} rows in {run.seconds:,.1f} s, "
        f"{run.rows / seconds:,.1f} rows/s, {result.tokens_read / seconds:,.0f} tokens/s in, "
        f"{result.tokens_written / seconds:,.0f} out"
    )
