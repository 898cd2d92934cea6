"""Configurations of each kind of job, and for each of their fields a value that is not its default.

A field that is added must be given such a value here; tests see to it that the manifest's command
tells it and that it is part of what a job is.
"""

from dataclasses import fields, is_dataclass, replace

from hala_engine.judge import JudgeConfig
from hala_engine.translate import TranslateConfig

TRANSLATE = TranslateConfig(inputs=("in.jsonl",), output="out")
JUDGE = JudgeConfig(
    inputs=("in.jsonl",), output="out", model="m", source_column="en", target_column="ar"
)

JOB = {
    "inputs": ("a b.jsonl", "hf://owner/name:train", "dir/it's.parquet"),
    "output": "a folder/$HOME",
    "model": "./my model",
    "revision": "v1.0",
    "format": "parquet",
    "shard_rows": 3,
    "shard": (2, 5),
    "limit": 100,
    "max_failures": 0,
    "engine.device": "cpu",
    "engine.dtype": "float32",
    "engine.kv_cache_dtype": "fp8",
    "engine.max_batch_size": 7,
    "engine.max_batched_tokens": 300,
    "engine.memory_utilization": 0.35,
    "engine.deterministic": True,
    "engine.prefix_caching": False,
    "chat_template": False,
    "source": "fr",
    "target": "fa",
}
OTHER_TRANSLATE = JOB | {
    "columns": ("a question", "réponse"),
    "messages_column": "chat log",
    "copied_roles": ("tool", "data base"),
    "prompt": '- "{text}" in $LANG?\n\tit\'s {"json": 1} \\frac{1}{2} `x` عربي:',
    "system": "Be kind;\nbe 100% quick & 'fair'",
    "max_segment_tokens": 50,
    "drop_flagged": True,
    "generation.max_new_tokens": 64,
    "generation.temperature": 0.7,
    "generation.top_p": 0.9,
    "generation.top_k": 20,
    "generation.min_p": 1e-05,
    "generation.repetition_penalty": 1.1,
    "generation.seed": 2**40,
    "generation.stop": ("\n\n", "--end", "a,b", " "),
    "checks.min_length_ratio": 0.0,
    "checks.max_length_ratio": 3.5,
    "checks.min_script_share": 0.25,
    "checks.max_loop_words": 12,
    "checks.min_compression": 0.1 + 0.2,
    "checks.max_copied_words": 4,
}
OTHER_JUDGE = JOB | {
    "source_column": "translation.en",
    "target_column": "translation.ar",
    "instruction": "Is it 'good'?\n{source} -> {target}",
    "verdicts": ("yes", "no"),
    "threshold": 0.123456789,
}
CASES = [
    *((TRANSLATE, name, value) for name, value in OTHER_TRANSLATE.items()),
    *((JUDGE, name, value) for name, value in OTHER_JUDGE.items()),
]
CASE_IDS = [f"{config.command}-{name}" for config, name, _ in CASES]


def leaves(options, prefix=""):
    """The name and the value of every field, of those within fields as `outer.inner`."""
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{field.name}.")
        else:
            yield prefix + field.name, value


def changed(config, name, value):
    outer, _, inner = name.partition(".")
    if inner:
        value = replace(getattr(config, outer), **{inner: value})
    return replace(config, **{outer: value})
