"""The dataset card of a translation."""

from hala_engine.jobs.card import CLOSING, flag_list, front_matter
from hala_engine.jobs.manifest import Totals
from hala_engine.jobs.plan import Plan
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.languages import language_name


def make_card(config: TranslateConfig, plan: Plan, model_name: str, totals: Totals) -> str:
    """README.md of the output; it holds nothing that differs between two runs of one job."""
    source = language_name(config.source) or config.source
    target = language_name(config.target) or config.target
    added = ", ".join(f"`{name}`" for name in config.added_columns)
    head = front_matter(
        config,
        plan,
        languages=(config.source, config.target),
        tags=("machine-translated",),
        splits={"train": "data"} if totals.rows_written else {},
    )
    if config.drop_flagged:
        faults = (
            f"{totals.rows - totals.rows_written:,} rows that failed or had a flag were left out."
        )
    else:
        faults = f"{totals.failed_rows:,} rows failed and have null in place of a translation."
    return f"""{head}
# {source} to {target} machine translation

{totals.rows_written:,} rows, translated by `hala-engine translate` with the model `{model_name}`.
Nobody has read them.

Each row is the input's, with {added} added, and `_hala`: the row's `id` (its place in the
input), `flags` (what looks wrong with the translation), `prompt_tokens` and `output_tokens`.

{faults} `failures.jsonl` says why rows failed. {CLOSING}

Rows that got each flag:

{flag_list(totals)}"""
