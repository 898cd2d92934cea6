"""`hala-engine translate`: flags to a TranslateConfig, its result to a line and an exit code."""

from typing import Annotated

import typer

from hala_engine.cli import options
from hala_engine.cli.exits import SOME_ROWS_FAILED

EXAMPLE = "Example: hala-engine translate orca.jsonl --columns question,response --output orca-ar"

_CHECKS = "Checks: when a row is flagged"


def translate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help=options.INPUTS_HELP,
        ),
    ],
    output: Annotated[str, typer.Option(metavar="DIR", help="Directory of the translation.")],
    model: options.Model = "hala-mini-en-ar",
    revision: options.Revision = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Columns of text to translate: a,b. Default: text, without --messages-column."
        ),
    ] = None,
    messages_column: Annotated[
        str | None,
        typer.Option(
            help="Column of chats, lists of {role, content} or {from, value}; each message is "
            "translated by itself."
        ),
    ] = None,
    copied_roles: Annotated[
        str,
        typer.Option(help="Roles whose messages hold data, not prose, and are copied: a,b."),
    ] = "tool,function,function_call,observation",
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
    format: options.Format = None,
    shard_rows: options.ShardRows = 10_000,
    shard: options.Shard = "1/1",
    limit: options.Limit = None,
    drop_flagged: Annotated[
        bool,
        typer.Option(
            "--drop-flagged",
            help="Leave out rows that have a flag or failed.",
            rich_help_panel=options.JOB,
        ),
    ] = False,
    min_length_ratio: Annotated[
        float | None,
        typer.Option(
            help="Fewest characters per character of the source, code and such aside; by default "
            "from the languages and the source's length.",
            rich_help_panel=_CHECKS,
        ),
    ] = None,
    max_length_ratio: Annotated[
        float | None, typer.Option(help="Most characters likewise.", rich_help_panel=_CHECKS)
    ] = None,
    min_script_share: Annotated[
        float,
        typer.Option(
            help="Least share of letters in the target language's script (wrong_script).",
            rich_help_panel=_CHECKS,
        ),
    ] = 0.5,
    max_loop_words: Annotated[
        int,
        typer.Option(
            help="Words that a phrase may fill by being said over and over (repetition).",
            rich_help_panel=_CHECKS,
        ),
    ] = 8,
    min_compression: Annotated[
        float,
        typer.Option(
            help="Least ratio of compressed to plain bytes, by zlib (repetition).",
            rich_help_panel=_CHECKS,
        ),
    ] = 0.22,
    max_copied_words: Annotated[
        int,
        typer.Option(
            help="Words of the source in a row that make it untranslated.",
            rich_help_panel=_CHECKS,
        ),
    ] = 8,
    max_failures: options.MaxFailures = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> int:
    """Translate columns of a dataset.

    Code, URLs, e-mail addresses, LaTeX, placeholders and HTML tags are never translated, and lines,
    lists and tables are kept. What looks wrong with a row is in its "_hala" as flags: truncated,
    repetition, untranslated, wrong_script, length_ratio, placeholder_lost, empty, structure_lost,
    markup_broken, preface, answered.

    The same command again resumes a job that was stopped.

    Exit codes: 0 done; 1 failed; 2 bad input; 3 done, but some rows failed (failures.jsonl);
    130, 143 stopped by a signal.
    """
    options.check_parallel(data_parallel, tensor_parallel)
    # Here and not above: it brings pyarrow, which --help can do without.
    from hala_engine.translate import (
        CheckOptions,
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
        columns=_names(columns, none=messages_column is not None),
        messages_column=messages_column,
        copied_roles=tuple(name.strip() for name in copied_roles.split(",") if name.strip()),
        source=source,
        target=target,
        prompt=prompt,
        chat_template=not no_chat_template,
        system=system,
        max_segment_tokens=max_segment_tokens,
        format=format,
        shard_rows=shard_rows,
        shard=options.parse_shard(shard),
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
        checks=CheckOptions(
            min_length_ratio=min_length_ratio,
            max_length_ratio=max_length_ratio,
            min_script_share=min_script_share,
            max_loop_words=max_loop_words,
            min_compression=min_compression,
            max_copied_words=max_copied_words,
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
    typer.echo(options.job_summary(result))
    return SOME_ROWS_FAILED if result.job.failed_rows else 0


def _names(columns: str | None, none: bool) -> tuple[str, ...]:
    """The columns of text; with `none` there need not be any."""
    if columns is None:
        return () if none else ("text",)
    return tuple(name.strip() for name in columns.split(","))
