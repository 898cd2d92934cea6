"""Small models, chat rows and a recipe, on which trainers are compared step by step.

Nothing depends on torch's random generator or on the version of a library, so that the curve of one
trainer can be kept and another's held against it later.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.training_job import write_recipe

ROWS = 240
STEPS = 32
PACKINGS = {"best_fit": 2, "none": 6}
"""Our packing -> rows of a step, which then holds about as many documents."""

HYPER = {"lr": 3e-3, "warmup_steps": 5, "betas": [0.9, 0.95], "weight_decay": 0.1, "clip": 1.0}

CHATML = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\n' -}}"
    "{%- if m['role'] == 'assistant' -%}{%- generation -%}{{- m['content'] + '<|im_end|>' -}}"
    "{%- endgeneration -%}{%- else -%}{{- m['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
GEMMA = (
    CHATML.replace("m['role'] + '\n'", "m['role'] | replace('assistant', 'model') + '\n'")
    .replace("<|im_start|>assistant", "<start_of_turn>model")
    .replace("<|im_start|>", "<start_of_turn>")
    .replace("<|im_end|>", "<end_of_turn>")
)
SPECIALS = ["<pad>", "<bos>", "<eos>"]
TURNS = {"lfm2": ["<|im_start|>", "<|im_end|>"], "gemma2": ["<start_of_turn>", "<end_of_turn>"]}
TEMPLATES = {"lfm2": CHATML, "gemma2": GEMMA}

VOCABULARY = 256 + len(SPECIALS) + 2
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
    "dtype": "float32",
}
MODELS = {
    "lfm2": COMMON
    | {
        "model_type": "lfm2",
        "architectures": ["Lfm2ForCausalLM"],
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "gemma2": COMMON
    | {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        # Small enough to matter at these lengths and sizes.
        "sliding_window": 48,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 8.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}

Curve = dict[str, list[float]]
"""The "loss" and "grad_norm" of each step."""


def write_rows(path: Path) -> None:
    """Chat rows of one or two turns and of unequal lengths; always the same."""
    draw = random.Random(0)
    words = ["river", "stone", "amber", "cloud", "violet", "maple", "north", "seven", "copper"]
    tasks: dict[str, Callable[[str], str]] = {
        "repeat: ": str,
        "shout: ": str.upper,
        "reverse: ": lambda text: text[::-1],
        "": lambda text: text[0],
    }
    with path.open("w", encoding="utf-8") as file:
        for _ in range(ROWS):
            messages = []
            for _ in range(draw.choice((1, 1, 1, 2))):
                name = draw.choice(list(tasks))
                text = " ".join(draw.choices(words, k=min(7, 1 + int(draw.expovariate(0.3)))))
                messages.append({"role": "user", "content": name + text})
                messages.append({"role": "assistant", "content": tasks[name](text)})
            file.write(json.dumps({"messages": messages}) + "\n")


def write_model(folder: Path, name: str) -> Path:
    """A Hugging Face directory with weights that depend on the parameters' names alone: not on
    torch's generator, nor on the order in which some version of transformers makes them."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MODELS[name]))
    _write_tokenizer(folder, name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    weights = {}
    for key, parameter in model.named_parameters():
        generator = np.random.default_rng(zlib.crc32(key.encode()))
        value = 0.08 * generator.standard_normal(tuple(parameter.shape), np.float32)
        is_gain = "norm" in key and name == "lfm2"  # Gemma's norms multiply by 1 + w
        weights[key] = torch.from_numpy(value + np.float32(is_gain))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path, name: str) -> None:
    """Bytes as tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIALS, *TURNS[name], *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIALS
    core.add_special_tokens([*SPECIALS, *TURNS[name]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos
    )
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.save_pretrained(folder)


def write_run(path: Path, model: Path, rows: Path, packing: str, out: Path) -> Path:
    per_step = PACKINGS[packing]
    sections: dict[str, dict[str, Any]] = {
        "model": {"path": str(model), "compute": "float32"},
        "data": {"train": [str(rows)], "seq_len": 256, "packing": packing},
        "optim": HYPER,
        "train": {
            "out": str(out),
            "steps": STEPS,
            "global_batch": per_step,
            "micro_batch": per_step // 2,
            "device": "cpu",
            "threads": 1,
        },
        "checkpoint": {"every": 10 * STEPS, "final_dtype": "float32"},
        "log": {"every": 1, "eval_every": 0, "tensorboard": False},
    }
    return write_recipe(path, sections)


def our_curve(out: Path) -> Curve:
    """Of the run in `out`."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return curve_of([line for line in lines if "loss" in line])


def curve_of(lines: list[dict[str, Any]]) -> Curve:
    return {key: [line[key] for line in lines] for key in ("loss", "grad_norm")}


def difference(ours: Curve, theirs: Curve) -> dict[str, float]:
    """The largest relative difference over the steps."""
    return {
        key: max(abs(a / b - 1) for a, b in zip(ours[key], theirs[key], strict=True))
        for key in theirs
    }
