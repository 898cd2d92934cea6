"""`hala-engine generate`: flags to a CompletionsConfig, its result to a line and an exit code."""

from typing import TYPE_CHECKING, Annotated

import typer

from hala_engine.cli import options
from hala_engine.cli.exits import SOME_ROWS_FAILED, leaves_nothing
from hala_engine.errors import InputError

if TYPE_CHECKING:
    from hala_engine.completions import CompletionsResult

EXAMPLE = (
    "Example: hala-engine generate questions.jsonl --output answers.jsonl "
    "--model LiquidAI/LFM2-1.2B --prompt-column question --chat"
)


def generate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help=options.INPUTS_HELP,
        ),
    ],
    output: Annotated[str, typer.Option(metavar="FILE.jsonl", help="The file to make.")],
    model: options.Model,
    revision: options.Revision = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(
            help="Column of prompts, which the model goes on from as they are. Default: prompt; "
            "of .txt files the column is text.",
        ),
    ] = None,
    messages_column: Annotated[
        str | None,
        typer.Option(
            help="Column of chats instead: lists of {role, content} or {from, value}, put into the "
            "model's chat template.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Put each prompt into the chat template, as the user's message."
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(help="System message of every chat that has none of its own."),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", help="Completions per row.", rich_help_panel=options.GENERATION)
    ] = 1,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Write the log-probability of every token, and of the N likeliest in its place "
            "(N may be 0). Before temperature, penalty and filters.",
            rich_help_panel=options.GENERATION,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(help="Most tokens per completion.", rich_help_panel=options.GENERATION),
    ] = 256,
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
    limit: Annotated[int | None, typer.Option(help="Stop after so many rows.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.jsonl.")] = False,
    debug: options.Debug = False,
) -> int:
    """Complete the prompts of a dataset.

    Each row is written with "completion" (with --n above 1 "completions", a list) and "_hala": the
    tokens read and written, and why the text ended ("stop" or "length").

    FILE.jsonl appears when all is done. A run that is stopped leaves nothing and is not resumed:
    cut a long job into files.

    Exit codes: 0 done; 1 failed; 2 bad input; 3 done, but some rows failed (FILE.failures.jsonl,
    and their completion is null); 130, 143 stopped by a signal.
    """
    options.check_parallel(data_parallel, tensor_parallel)
    if prompt_column is not None and messages_column is not None:
        raise InputError("give --prompt-column or --messages-column, not both")
    # Here and not above: it brings pyarrow, which --help can do without.
    from hala_engine.completions import CompletionsConfig, complete
    from hala_engine.translate import EngineOptions, GenerationOptions

    config = CompletionsConfig(
        inputs=tuple(inputs),
        output=output,
        model=model,
        revision=revision,
        column=messages_column or prompt_column or "prompt",
        is_messages=messages_column is not None,
        chat=chat,
        system=system,
        n=n,
        logprobs=logprobs,
        limit=limit,
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
    with leaves_nothing():
        result = complete(config, quiet=False)
    typer.echo(_summary(result))
    return SOME_ROWS_FAILED if result.failed_rows else 0


def _summary(result: "CompletionsResult") -> str:
    seconds = max(result.seconds, 1e-9)
    failed = f", {result.failed_rows:,} failed: {result.failures}" if result.failed_rows else ""
    return (
        f"{result.rows:,} rows in {result.output}{failed}; {result.seconds:,.1f} s, "
        f"{result.rows / seconds:,.1f} rows/s, {result.prompt_tokens / seconds:,.0f} tokens/s in, "
        f"{result.output_tokens / seconds:,.0f} out"
    )
