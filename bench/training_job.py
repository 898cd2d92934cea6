"""What a benchmark of training feeds a trainer, and reads of ours.

Chat rows have chosen lengths in tokens: the tokenizer makes a word a token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SPECIALS = ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"]
ROLES = ["user", "assistant"]
TEMPLATE = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + ' ' -}}"
    "{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] + '<|im_end|>' -}}"
    "{%- endgeneration -%}{%- else -%}{{- m['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant ' -}}{%- endif -%}"
)
FRAME = 7
"""Tokens of a row of one question and one answer besides their words."""


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: Path, config: dict[str, Any], words: int) -> Path:
    """A Hugging Face directory without weights; its tokenizer knows `words` tokens."""
    write_config(folder, config)
    _write_tokenizer(folder, words)
    return folder


def write_weights(folder: Path, device: str) -> None:
    """Random bfloat16 weights for the config.json in `folder`, made on `device`: sooner than the
    initialisation of a whole model on the CPU."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    gain = 0.0 if config.model_type == "gemma2" else 1.0  # Gemma's norms multiply by 1 + w
    weights = {
        name: torch.full(p.shape, gain, dtype=torch.bfloat16)
        if "norm" in name
        else (0.02 * torch.randn(p.shape, device=device)).to("cpu", torch.bfloat16)
        for name, p in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = [*SPECIALS, *ROLES]
    words = [*named, *(f"w{i}" for i in range(len(named), vocabulary))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIALS[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIALS)
    pad, start, _, end = SPECIALS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=start, eos_token=end
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def mixed_lengths(count: int, longest: int, middle: int = 200) -> np.ndarray:
    """As of chats: log-normal with median `middle`, from 16 to `longest`; always the same."""
    drawn = np.random.default_rng(1).lognormal(np.log(middle), 0.9, count)
    return np.clip(drawn.astype(int), 16, longest)


def write_rows(path: Path, lengths: np.ndarray, vocabulary: int, seed: int = 0) -> int:
    """JSONL rows with these numbers of tokens; the answer takes 30 to 80% of the words. Returns how
    many tokens are learnt: the answers' and the ends of their turns."""
    rng = np.random.default_rng(seed)
    first = len(SPECIALS) + len(ROLES)
    learnt = 0
    with path.open("w", encoding="utf-8") as file:
        for length in lengths.tolist():
            words = [f"w{i}" for i in rng.integers(first, vocabulary, length - FRAME)]
            answer = max(1, round(rng.uniform(0.3, 0.8) * len(words)))
            learnt += answer + 1
            contents = " ".join(words[answer:]), " ".join(words[:answer])
            turns = zip(ROLES, contents, strict=True)
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return learnt


def write_recipe(path: Path, sections: dict[str, dict[str, Any]]) -> Path:
    """Strings, numbers, booleans and lists of them are spelt in JSON as in TOML."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_metrics(path: Path) -> dict[str, Any]:
    """Of a run of ours that logged each step: what the Trainer's process reports of itself."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row][1:]
    tokens = [round(row["tokens_per_s"] * row["seconds"]) for row in steps]
    return {
        "seconds": [row["seconds"] for row in steps],
        "tokens": tokens,
        "with_padding": [
            round(n / (1 - row["padding"])) for n, row in zip(tokens, steps, strict=True)
        ],
        "peak_rss_bytes": max(row["memory_gb"] for row in steps) * 1e9,
    }
