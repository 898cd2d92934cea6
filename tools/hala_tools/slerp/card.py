"""The model card of a merge."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from hala_tools.slerp.report import Report
from hala_tools.slerp.sphere import LINEAR_ABOVE

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)(?:@(.+))?", re.ASCII)
"""OWNER/NAME, or a bare NAME of the hub's first days; @REVISION."""

FRONT_MATTER = re.compile(r"\s*---\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)

KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")
"""What the base's card says that holds for the merge too."""

ROUNDING = {
    "strict": "Tensors are combined in float32 or better and rounded once.",
    "mergekit": "Computation and rounding follow MergeKit.",
}
"""By the report's parity."""


def model_card(
    *,
    name: str,
    base: str,
    tuned: str,
    merge_file: str,
    report: Report,
    base_readme: Path | None,
) -> str:
    """README.md of the merged model. `base`, `tuned`: directories, or hub ids with @REVISION or
    without. `merge_file`: the merge as YAML. The same merge gives the same card."""
    metadata = _metadata(base, tuned, base_readme)
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)
    fence = _fence(merge_file)
    summary = "\n".join(f"- {line}" for line in report.summary())
    return f"""---
{front}---
# {name}

A merge of two models by `hala-slerp` of Hala Engine. Nobody has evaluated it.

- base, t = 0: {_link(base)}
- tuned, t = 1: {_link(tuned)}
{_license_note(metadata)}
## How it was merged

By spherical linear interpolation (SLERP, Shoemake 1985). A tensor of the result is
sin((1 - t) θ) / sin θ times the base's plus sin(t θ) / sin θ times the tuned model's, with θ the
angle between the two as vectors; where |cos θ| > {LINEAR_ABOVE} it is 1 - t times the one plus t
times the other. {ROUNDING[report.parity]}

The merge as a file, which `hala-slerp --config` and MergeKit read:

{fence}yaml
{merge_file.strip()}
{fence}

## How far apart the models were

{summary}

Ken Shoemake, [Animating rotation with quaternion curves](https://doi.org/10.1145/325334.325242),
SIGGRAPH 1985.
"""


def _metadata(base: str, tuned: str, base_readme: Path | None) -> dict:
    ids = [match[1] for model in (base, tuned) if (match := _hub_id(model))]
    models = {"base_model": list(dict.fromkeys(ids)), "base_model_relation": "merge"}
    return (
        {"library_name": "transformers"}
        | (models if ids else {})
        | {"tags": ["merge", "slerp", "hala-engine"]}
        | (_kept(base_readme) if base_readme else {})
    )


def _kept(readme: Path) -> dict:
    """Of the card's front matter; nothing if there is none, or it cannot be read."""
    try:
        match = FRONT_MATTER.match(readme.read_text(encoding="utf-8-sig"))
        found = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(found, dict):
        return {}
    kept = {key: _texts(found[key]) for key in KEPT if key in found}
    return {key: value for key, value in kept.items() if value}


def _texts(value: object) -> str | list[str] | None:
    """Text, or the texts of a list. A bare `no`, Norwegian, is false to YAML 1.1."""
    if value is False:
        return "no"
    if isinstance(value, list):
        return [text for part in value if isinstance(text := _texts(part), str)]
    return value if isinstance(value, str) else None


def _hub_id(model: str) -> re.Match[str] | None:
    """Its name, and its revision or None. A directory may look like one: runs/hala."""
    return None if Path(model).is_dir() else HUB_ID.fullmatch(model)


def _link(model: str) -> str:
    match = _hub_id(model)
    if not match:
        return f"`{model}`"
    revision = f" at revision `{match[2]}`" if match[2] else ""
    return f"[{match[1]}](https://huggingface.co/{match[1]}){revision}"


def _license_note(metadata: dict) -> str:
    if "license" not in metadata:
        return ""
    return "\nThe licence named above is the base's; that of the tuned model holds as well.\n"


def _fence(text: str) -> str:
    """Longer than any run of backticks in `text`."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
