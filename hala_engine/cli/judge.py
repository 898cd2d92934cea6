"""`hala-engine judge`: flags to a JudgeConfig, its result to a line and an exit code."""

from typing import Annotated

import typer

from hala_engine.cli import options
from hala_engine.cli.exits import SOME_ROWS_FAILED

EXAMPLE = (
    "Example: hala-engine judge opus-100.jsonl --output judged --model Qwen/Qwen2.5-3B-Instruct "
    "--source-column translation.en --target-column translation.ar"
)


def judge(
    inputs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help=options.INPUTS_HELP)],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory for accepted/ and rejected/.")
    ],
    model: options.Model,
    source_column: Annotated[
        str,
        typer.Option(
            help="Column of the source texts; translation.en is field en of a column of records."
        ),
    ],
    target_column: Annotated[str, typer.Option(help="Column of their translations.")],
    revision: options.Revision = None,
    source: Annotated[str, typer.Option(help="Language code of the source.")] = "en",
    target: Annotated[str, typer.Option(help="Language code of the translation.")] = "ar",
    instruction: Annotated[
        str | None,
        typer.Option(
            help="What the judge is told, in place of a strict built-in rubric; it must ask for "
            "one of --verdicts. Text with {source} and {target} in it is the whole prompt; to "
            "other text the pair is appended.",
        ),
    ] = None,
    verdicts: Annotated[
        str, typer.Option(metavar="YES,NO", help="The two words that the judge may answer.")
    ] = "accept,reject",
    threshold: Annotated[
        float,
        typer.Option(help="Accept where P(yes) / (P(yes) + P(no)) is at least this."),
    ] = 0.5,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Prompt with plain text.")
    ] = False,
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
    max_failures: options.MaxFailures = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> int:
    """Accept or reject pairs of a text and its translation.

    After the instruction and the pair, the log-probabilities of the two verdicts are compared; no
    text is generated. Each row goes to accepted/ or rejected/ with "_hala" added: score,
    accept_logprob, reject_logprob. A pair with an empty side is rejected unseen.

    The same command again resumes a job that was stopped.

    Exit codes: 0 done; 1 failed; 2 bad input; 3 done, but some rows failed (failures.jsonl; they
    are in neither directory); 130, 143 stopped by a signal.
    """
    options.check_parallel(data_parallel, tensor_parallel)
    # Here and not above: it brings pyarrow, which --help can do without.
    from hala_engine.judge import EngineOptions, JudgeConfig, judge_job

    config = JudgeConfig(
        inputs=tuple(inputs),
        output=output,
        model=model,
        revision=revision,
        source_column=source_column,
        target_column=target_column,
        source=source,
        target=target,
        instruction=instruction,
        verdicts=tuple(word.strip() for word in verdicts.split(",")),
        threshold=threshold,
        chat_template=not no_chat_template,
        format=format,
        shard_rows=shard_rows,
        shard=options.parse_shard(shard),
        limit=limit,
        max_failures=max_failures,
        overwrite=overwrite,
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
    result = judge_job(config, quiet=False)
    typer.echo(options.job_summary(result))
    return SOME_ROWS_FAILED if result.job.failed_rows else 0
