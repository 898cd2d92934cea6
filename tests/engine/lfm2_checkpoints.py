"""Small random LFM2 checkpoints in Hugging Face form, with `transformers` as the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import Lfm2Config, Lfm2ForCausalLM

VOCAB = 300


def write_checkpoint(
    directory: Path, *, seed: int = 0, shard_size: str = "1GB", **overrides
) -> Lfm2ForCausalLM:
    """Writes a checkpoint and returns its oracle, float32 with eager attention."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
        "eos_token_id": 7,
    }
    config = Lfm2Config(**settings | overrides, attn_implementation="eager")
    oracle = Lfm2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            # Wide enough that greedy tokens vary and differ clearly.
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.uniform_(0.5, 1.5)
    oracle.save_pretrained(directory, max_shard_size=shard_size)
    write_tokenizer(directory)
    return oracle


def write_tokenizer(directory: Path, vocab: int = VOCAB) -> None:
    """A tokenizer of one character a token, id i for chr(256 + i)."""
    table = {chr(0x100 + i): i for i in range(vocab)}
    Tokenizer(models.BPE(vocab=table, merges=[])).save(str(directory / "tokenizer.json"))


def greedy(oracle: Lfm2ForCausalLM, prompt: list[int], new_tokens: int) -> list[int]:
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
