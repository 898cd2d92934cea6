"""The head of a dataset card, which tells `datasets.load_dataset` where the rows are."""

import json
from collections.abc import Mapping, Sequence

from hala_engine.jobs.config import JobConfig
from hala_engine.jobs.manifest import Totals
from hala_engine.jobs.plan import Plan
from hala_engine.jobs.results import output_schema
from hala_engine.rows.features import json_features


def front_matter(
    config: JobConfig,
    plan: Plan,
    languages: Sequence[str],
    tags: Sequence[str],
    splits: Mapping[str, str],
) -> str:
    """YAML between dashes. splits: those that have rows, each with its folder."""
    lines = ["---", "language:", *(f"- {code}" for code in dict.fromkeys(languages))]
    lines += ["task_categories:", "- translation", "tags:", *(f"- {tag}" for tag in tags)]
    if plan.format == "jsonl":
        schema = output_schema(plan.schema, config.added_columns, config.scores)
        # In JSON, which is YAML on one line.
        types = json.dumps({"features": json_features(schema)}, ensure_ascii=False)
        lines.append(f"dataset_info: {types}")
    if splits:  # an empty list is no card that `datasets` reads
        lines += ["configs:", "- config_name: default", "  data_files:"]
    for split, folder in splits.items():
        lines += [f"  - split: {split}", f"    path: {folder}/part-*.{plan.format}"]
    return "\n".join([*lines, "---", ""])


def flag_list(totals: Totals) -> str:
    """Markdown: how many rows have each flag."""
    return "".join(f"- `{name}`: {count:,}\n" for name, count in totals.flags.items()) or "- none\n"


CLOSING = """`manifest.json` holds the model's fingerprint, the configuration, the command that
makes this again, and each file's digest."""
