"""The dataset card, which also tells `datasets.load_dataset` where the rows are."""

from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.languages import language_name
from hala_engine.translate.manifest import Totals
from hala_engine.translate.plan import Plan


def make_card(config: TranslateConfig, plan: Plan, model_name: str, totals: Totals) -> str:
    """README.md of the output; it holds nothing that differs between two runs of one job."""
    source = language_name(config.source) or config.source
    target = language_name(config.target) or config.target
    added = ", ".join(f"`{config.output_column(name)}`" for name in config.columns)
    flags = "".join(f"- `{name}`: {count:,}\n" for name, count in totals.flags.items())
    flags = flags or "- none\n"
    languages = "".join(f"- {code}\n" for code in dict.fromkeys((config.source, config.target)))
    return f"""---
language:
{languages}task_categories:
- translation
tags:
- machine-translated
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*.{plan.format}
---

# {source} to {target} machine translation

{totals.rows_written:,} rows, translated by `hala-engine translate` with the model `{model_name}`.
Nobody has read them.

Each row is the input's, with {added} added, and `_hala`: the row's `id` (its place in the
input), `flags` (what looks wrong with the translation), `prompt_tokens` and `output_tokens`.

{totals.failed_rows:,} rows failed and have null in place of a translation; `failures.jsonl` says
why. `manifest.json` holds the model's fingerprint, the configuration and each file's digest.

Rows with each flag:

{flags}"""
