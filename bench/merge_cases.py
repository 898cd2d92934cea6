"""What bench/merge_parity.py merges: pairs of checkpoints, and merge files for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

BOTH = [{"model": "base"}, {"model": "tuned"}]

FILTERED = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"filter": "feed_forward", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
"""As in the examples of MergeKit's documentation."""


@dataclass(frozen=True)
class Case:
    """`inputs`: of `write_pair`, beside the kind. `config`: the merge file. `golden`: tiny, and
    among the tests' data. `departs`: MergeKit's result is not that of the formula alone."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    golden: bool = False
    departs: bool = False


def merge_file(t: Any, **more: Any) -> dict[str, Any]:
    """Merges all layers with `t`, a number, a gradient or a list of filters."""
    parts = {"merge_method": "slerp", "base_model": "base", "parameters": {"t": t}}
    return {"models": BOTH, **parts, **more}


def sliced(*slices: tuple[int, int, Any], t: Any) -> dict[str, Any]:
    """A merge file with slices (start, end, t or None); `t` is for all that theirs leave open."""
    listed = []
    for start, end, own in slices:
        entry: dict[str, Any] = {"sources": [m | {"layer_range": [start, end]} for m in BOTH]}
        listed.append(entry | ({} if own is None else {"parameters": {"t": own}}))
    parts = {"merge_method": "slerp", "base_model": "base", "parameters": {"t": t}}
    return {"slices": listed, **parts}


def factor(case: Case, name: str) -> float:
    """t of tensor `name`, as MergeKit's documentation has it.

    What belongs to no layer is merged as if in the first layer: of the first slice if the model
    lists it before its layers, and of the last slice otherwise.
    """
    layers = case.inputs.get("layers", 4)
    slices = case.config.get("slices")
    ranges = [s["sources"][0]["layer_range"] for s in slices] if slices else [(0, layers)]
    if match := re.search(r"\.layers\.(\d+)\.", name):
        layer = int(match[1])
        chosen = next(i for i, (_, end) in enumerate(ranges) if layer < end)
        start, end = ranges[chosen]
        position = (layer - start) / (end - start - 1) if end - start > 1 else 1.0
    else:
        first = "embed" in name  # embed_tokens, and LFM2's embedding_norm
        chosen, position = (0 if first else -1), 0.0
    own = slices[chosen].get("parameters", {}) if slices else {}
    for scope in (own, case.config["parameters"]):
        value = _evaluate(scope.get("t"), name, position)
        if value is not None:
            return value
    raise KeyError(name)


def _evaluate(setting: Any, name: str, position: float) -> float | None:
    if isinstance(setting, list) and isinstance(setting[0], dict):
        rules = (r for r in setting if r.get("filter", "*") == "*" or r["filter"] in name)
        rule = next(rules, None)
        return _evaluate(rule["value"], name, position) if rule else None
    if isinstance(setting, list):
        place = position * (len(setting) - 1)
        left = min(int(place), len(setting) - 2) if len(setting) > 1 else 0
        right = min(left + 1, len(setting) - 1)
        return setting[left] + (place - left) * (setting[right] - setting[left])
    return setting


def cases() -> list[Case]:
    """Golden ones first. Seeds differ, so no two cases have the same values."""
    numbered = enumerate([*_golden(), *_further()])
    return [replace(case, inputs={"seed": seed, **case.inputs}) for seed, case in numbered]


def _golden() -> list[Case]:
    lfm2, mlp = "model.layers.{}.feed_forward.{}.weight", "model.layers.{}.mlp.{}.weight"
    sharded = {"base_shards": 3, "tuned_shards": 2}
    without_direction = {
        "zero_base": lfm2.format(0, "w1"),
        "zero_tuned": lfm2.format(0, "w2"),
        "subnormal": lfm2.format(1, "w3"),
    }
    at_wide_angles = {
        "identical": mlp.format(0, "up_proj"),
        "opposite": mlp.format(1, "up_proj"),
        "obtuse": mlp.format(1, "down_proj"),
    }
    wider = {"tuned_vocab": 40}
    short_float32 = {"dtype": "float32", "layers": 2}
    slices = sliced((0, 1, None), (1, 3, [0.1, 0.9]), (3, 4, FILTERED[:2]), t=0.7)
    half_to_float32 = merge_file(0.5, out_dtype="float32")
    float16 = merge_file(0.5, dtype="float16")
    return [
        Case("lfm2_half", "lfm2", merge_file(0.5), golden=True),
        Case("lfm2_filters", "lfm2", merge_file(FILTERED), sharded, golden=True),
        Case("lfm2_no_direction", "lfm2", merge_file(0.3), without_direction, True, True),
        Case("lfm2_bfloat16_to_float32", "lfm2", half_to_float32, {"layers": 2}, True, True),
        Case("gemma2_slices", "gemma2", slices, golden=True),
        Case("gemma2_float32_as_float16", "gemma2", float16, {"dtype": "float32"}, True, True),
        Case(
            "gemma2_tokenizer_of_base",
            "gemma2",
            merge_file(0.4, tokenizer_source="base"),
            wider,
            golden=True,
        ),
        Case(
            "qwen2_float16",
            "qwen2",
            merge_file([0, 0.6, 1]),
            {"dtype": "float16", **at_wide_angles},
            golden=True,
        ),
        Case("qwen2_float32", "qwen2", merge_file(0.35), short_float32, golden=True),
        Case(
            "qwen2_tokenizer_of_tuned",
            "qwen2",
            merge_file(0.4, tokenizer_source="tuned"),
            wider | {"layers": 3},
            golden=True,
        ),
    ]


def _further() -> list[Case]:
    swapped = merge_file(0.5) | {"models": BOTH[::-1]}
    base_unlisted = merge_file(0.5) | {"models": BOTH[1:]}
    starred = merge_file([{"filter": "*", "value": 0.2}, {"value": 0.9}])
    in_slices = sliced((0, 2, [0.2, 0.6]), (2, 6, [{"filter": "norm", "value": 1}]), t=[0.4, 0.8])
    large = {"hidden": 64, "vocab": 300, "layers": 6}
    beyond_a_chunk = {"hidden": 256, "vocab": 9000, "layers": 1}
    float32 = {"dtype": "float32"}
    mixed = {"dtype": "float32", "tuned_dtype": "bfloat16"}
    plain = [
        Case(f"{kind}_{t}", kind, merge_file(t), large)
        for kind in ("lfm2", "gemma2", "qwen2")
        for t in (0, 0.25, 1, 1.3, -0.3)
    ]
    stored = [
        Case(f"{kind}_{dtype}", kind, merge_file([0.1, 0.9]), {"dtype": dtype, **large})
        for kind, dtype in (("lfm2", "float16"), ("lfm2", "float32"), ("gemma2", "float16"))
    ]
    return [
        *plain,
        *stored,
        Case("lfm2_base_second", "lfm2", swapped),
        Case("lfm2_base_unlisted", "lfm2", base_unlisted),
        Case("gemma2_starred", "gemma2", starred),
        Case("gemma2_filters", "gemma2", merge_file(FILTERED), large),
        Case("lfm2_slices", "lfm2", in_slices, large),
        Case("qwen2_slices", "qwen2", in_slices, large),
        Case("lfm2_beyond_a_chunk", "lfm2", merge_file(0.5), beyond_a_chunk),
        Case("lfm2_bfloat16_named", "lfm2", merge_file(0.5, dtype="bfloat16")),
        Case("lfm2_bfloat16_as_float32", "lfm2", merge_file(0.5, dtype="float32")),
        Case("qwen2_float32_to_bfloat16", "qwen2", merge_file(0.5, out_dtype="bfloat16"), float32),
        Case("lfm2_mixed", "lfm2", merge_file(0.5, out_dtype="bfloat16"), mixed),
        Case(
            "lfm2_float32_as_bfloat16",
            "lfm2",
            merge_file(0.5, dtype="bfloat16"),
            float32,
            departs=True,
        ),
        Case(
            "qwen2_rounded_twice",
            "qwen2",
            merge_file(0.5, dtype="bfloat16", out_dtype="float16"),
            float32,
            departs=True,
        ),
    ]
