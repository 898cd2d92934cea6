"""Small random checkpoints in Hugging Face form, with `transformers` as the oracle."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 300

SETTINGS = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 7,
}


@dataclass(frozen=True)
class Architecture:
    """`settings`: of a small model, beside SETTINGS. `norms`: the range of the norms' weights."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    settings: dict = field(default_factory=dict)
    norms: tuple[float, float] = (0.5, 1.5)


ARCHITECTURES = {
    "lfm2": Architecture(
        Lfm2Config,
        Lfm2ForCausalLM,
        {"block_auto_adjust_ff_dim": False, "full_attn_idxs": [1, 3]},
    ),
    "cohere2": Architecture(
        Cohere2Config, Cohere2ForCausalLM, {"sliding_window": 13, "logit_scale": 1.0}
    ),
    "gemma2": Architecture(
        Gemma2Config,
        Gemma2ForCausalLM,
        # Caps so low that they bend the scores of a small model too.
        {
            "sliding_window": 13,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
        norms=(-0.5, 0.5),  # they are offsets from 1
    ),
    "qwen2": Architecture(Qwen2Config, Qwen2ForCausalLM),
    "llama": Architecture(LlamaConfig, LlamaForCausalLM),
}
"""By model_type."""


def write_checkpoint(
    directory: Path,
    architecture: str = "lfm2",
    *,
    seed: int = 0,
    shard_size: str = "1GB",
    **overrides,
) -> PreTrainedModel:
    """Writes a checkpoint and returns its oracle, float32 with eager attention."""
    torch.manual_seed(seed)
    kind = ARCHITECTURES[architecture]
    settings = deepcopy(SETTINGS | kind.settings | overrides)  # they are written into
    oracle = kind.model(kind.config(**settings, attn_implementation="eager")).eval()
    randomise(oracle, kind.norms)
    oracle.save_pretrained(directory, max_shard_size=shard_size)
    write_tokenizer(directory)
    return oracle


@torch.no_grad()
def randomise(model: PreTrainedModel, norms: tuple[float, float] = (0.5, 1.5)) -> None:
    """Weights so wide that greedy tokens vary and differ clearly."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.15)
        elif name.endswith(".bias"):
            parameter.normal_(0, 0.3)
        else:
            parameter.uniform_(*norms)


def write_tokenizer(directory: Path, vocab: int = VOCAB) -> None:
    """A tokenizer of one character a token, id i for chr(256 + i)."""
    table = {chr(0x100 + i): i for i in range(vocab)}
    Tokenizer(models.BPE(vocab=table, merges=[])).save(str(directory / "tokenizer.json"))


def oracle_logits(oracle: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocab]; computed without a cache, so windows are masks."""
    with torch.inference_mode():
        return oracle(torch.tensor([tokens]), use_cache=False).logits[0]


def greedy(oracle: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    with torch.inference_mode():
        ids = oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return ids[0, len(prompt) :].tolist()


def random_prompts(count: int, seed: int = 0, longest: int = 90) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator)
    lengths[:4] = torch.tensor([1, 2, 3, 16])[: len(lengths[:4])]
    return [torch.randint(8, VOCAB, (n,), generator=generator).tolist() for n in lengths.tolist()]


def rewrite_config(directory: Path, drop: tuple[str, ...] = (), **changes) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key in drop:
        config.pop(key, None)
    path.write_text(json.dumps(config | changes))
