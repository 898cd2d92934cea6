"""The dataset card of a judge's output."""

from textwrap import indent

from hala_engine.jobs.card import CLOSING, flag_list, front_matter
from hala_engine.jobs.manifest import Totals
from hala_engine.jobs.plan import Plan
from hala_engine.judge.config import ACCEPTED, REJECTED, JudgeConfig


def make_card(config: JudgeConfig, plan: Plan, model_name: str, totals: Totals) -> str:
    """README.md of the output; it holds nothing that differs between two runs of one job."""
    accept, reject = config.verdicts
    accepted, rejected = (totals.written.get(name, 0) for name in (ACCEPTED, REJECTED))
    head = front_matter(
        config,
        plan,
        languages=(config.source, config.target),
        tags=("parallel-text", "machine-judged"),
        # A split of no rows has no files, and `datasets` refuses a pattern without any.
        splits={name: name for name in config.folders if totals.written.get(name)},
    )
    return f"""{head}
# Pairs of texts, judged by a machine

{accepted:,} accepted and {rejected:,} rejected of {totals.rows:,} pairs of `{config.source_column}`
and `{config.target_column}`, by `hala-engine judge` with the model `{model_name}`. Nobody has read
them.

Each row is the input's, with `_hala` added: the row's `id` (its place in the input), `flags`,
`prompt_tokens` and `output_tokens` (where an earlier job wrote these, they are its), and the
judge's numbers. `accept_logprob` and `reject_logprob` are
the log-probabilities, under the model's softmax over all tokens, that its answer begins with
`{accept}` or `{reject}`; `score` is P({accept}) / (P({accept}) + P({reject})). Accepted are those
with a `score` of at least {config.threshold:g}. A pair with an empty side is rejected without
asking: its flag is `empty`, its `score` 0, and it has no log-probabilities.

{totals.failed_rows:,} rows failed and are in neither split; `failures.jsonl` says why. {CLOSING}

Rows with each flag:

{flag_list(totals)}
The prompt, up to the model's chat template:

{indent(config.template, "    ")}
"""
