"""What a model directory holds beside its weights: whose files, and whose configuration, the merged
model gets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hala_tools.slerp.request import Side

WEIGHT_ENDINGS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz",
    ".pkl", ".distcp",
}  # fmt: skip
"""Endings of files that hold weights, or an optimizer's state, and so would not match the new
ones."""

OF_ONE_MODEL = {
    "config.json", "README.md", "adapter_config.json", "mergekit_config.yml", "trainer_state.json",
    "all_results.json", "train_results.json", "eval_results.json", "latest", "zero_to_fp32.py",
}  # fmt: skip
"""What is written anew, or tells of the base model's training and is not true of the result."""

GENERATION = "generation_config.json"
"""It names the tokens that end a text, and so goes with the tokenizer."""

TEMPLATES = "additional_chat_templates"
"""Directory of a tokenizer's further chat templates."""

TOKENIZER_NAMES = {
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model", "bpe.codes",
    "dict.txt", "tekken.json", "tiktoken.model", "normalizer.json",
}  # fmt: skip
TOKENIZER_PREFIXES = ("tokenizer", "tokenization", "chat_template")
"""tokenizer.json, tokenizer.model.v3, tokenization_own.py, chat_template.jinja ..."""


_SETTINGS = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
}  # fmt: skip


def sync(path: Path) -> None:
    """Have the file, or the directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_other_files(base: Path, tuned: Path, source: Side, out: Path) -> None:
    """Tokenizer and generation settings of the model `source`, and the base's licence, code and
    other files, into the directory `out`. Of links, what they lead to."""
    owner = {"base": base, "tuned": tuned}[source]
    chosen = {name: owner / name for name in _tokenizer_files(owner)}
    if (owner / GENERATION).is_file():
        chosen[GENERATION] = owner / GENERATION
    chosen |= {name: base / name for name in _remaining_files(base)}
    for name, path in chosen.items():
        target = out / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        sync(target)
    if (out / TEMPLATES).is_dir():
        sync(out / TEMPLATES)


def tokenizer_differences(base: Path, tuned: Path) -> list[str]:
    """Names of the tokenizer files that differ in contents, or that one model lacks. JSON is
    compared as values: its layout and the order of its keys do not count."""
    names = sorted({*_tokenizer_files(base), *_tokenizer_files(tuned)})
    return [name for name in names if not _same(base / name, tuned / name)]


def has_tokenizer(model: Path) -> bool:
    """Whether the model's directory has a vocabulary, not settings alone."""
    return any(name not in _SETTINGS for name in _tokenizer_files(model))


def _tokenizer_files(model: Path) -> list[str]:
    """Relative to `model`; without generation_config.json."""
    own = [name for name in _visible_files(model) if _is_tokenizer(name)]
    return own + [f"{TEMPLATES}/{name}" for name in _visible_files(model / TEMPLATES)]


def _remaining_files(model: Path) -> list[str]:
    return [
        name
        for name in _visible_files(model)
        if not _is_tokenizer(name)
        and name != GENERATION
        and name not in OF_ONE_MODEL
        and Path(name).suffix not in WEIGHT_ENDINGS
        and not name.endswith(".index.json")
        and not name.startswith("events.out.tfevents")
    ]


def _visible_files(directory: Path) -> list[str]:
    """Files alone: a model's directories hold it in other forms. None where there is no such
    directory."""
    if not directory.is_dir():
        return []
    files = (path.name for path in directory.iterdir() if path.is_file())
    return sorted(name for name in files if not name.startswith("."))


def _is_tokenizer(name: str) -> bool:
    return (
        name in TOKENIZER_NAMES
        or name.startswith(TOKENIZER_PREFIXES)
        or Path(name).suffix == ".tiktoken"
    )


def _same(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    contents = [path.read_bytes() for path in (first, second)]
    if contents[0] == contents[1]:
        return True
    if first.suffix != ".json":
        return False
    try:
        return json.loads(contents[0]) == json.loads(contents[1])
    except ValueError:
        return False


def merged_config(
    base_config: dict,
    tuned_config: dict,
    *,
    source: Side,
    dtype: str | None,
    vocab_size: int | None,
) -> dict:
    """config.json of the result: the base's, but numbers of tokens as the model `source` has them.

    `dtype`: that of the weights (None: as the base's says), under the name that the base uses.
    `vocab_size`: rows of the embedding (None: as the model `source` says).
    """
    config = dict(base_config)
    if source == "tuned":
        theirs = {name: value for name, value in tuned_config.items() if _is_of_tokenizer(name)}
        kept = {n: v for n, v in config.items() if not n.endswith("_token_id") or n in theirs}
        config = kept | theirs
    if dtype is not None:
        names = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
        config |= dict.fromkeys(names, dtype)
    if vocab_size is not None:
        config["vocab_size"] = vocab_size
    return config


def _is_of_tokenizer(key: str) -> bool:
    return key.endswith("_token_id") or key == "vocab_size"


WITHOUT_MEANING = {
    "_name_or_path", "transformers_version", "unsloth_version", "unsloth_fixed", "architectures",
    "auto_map", "dtype", "torch_dtype", "use_cache", "id2label", "label2id", "return_dict",
    "output_attentions", "output_hidden_states", "_attn_implementation",
    "_attn_implementation_autoset", "initializer_range", "attention_dropout", "hidden_dropout",
    "embd_pdrop", "resid_pdrop", "attn_pdrop", "pretraining_tp", "task_specific_params",
}  # fmt: skip
"""Keys of config.json that say nothing of what the weights compute."""


def config_differences(base_config: dict, tuned_config: dict) -> list[str]:
    """Names, dotted for nested ones, of the settings in which the two models' weights are meant
    differently. A key that one file lacks stands for a default, which we do not know: it counts
    as equal. `meaning` has the values."""
    base, tuned = meaning(base_config), meaning(tuned_config)
    return [name for name in base if name in tuned and base[name] != tuned[name]]


def meaning(config: dict) -> dict[str, object]:
    """Dotted name -> value, of all that bears on what the weights compute."""
    values: dict[str, object] = {}
    for name, value in _one_rope(config).items():
        if name in WITHOUT_MEANING or _is_of_tokenizer(name):
            continue
        if isinstance(value, dict):
            values |= {f"{name}.{inner}": v for inner, v in meaning(value).items()}
        else:
            values[name] = value
    return values


def _one_rope(config: dict) -> dict:
    """Rotary settings under their old names: transformers 5 saves what was `rope_theta` and
    `rope_scaling` as `rope_parameters`."""
    rope = (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    if not rope and "rope_theta" not in config and "rope_scaling" not in config:
        return config
    rope = {"rope_type": rope.get("type", "default")} | rope
    rope.pop("type", None)
    others = {n: v for n, v in config.items() if n not in ("rope_scaling", "rope_parameters")}
    others |= {n: rope.pop(n) for n in ("rope_theta", "partial_rotary_factor") if n in rope}
    return others | {"rope_scaling": rope}
