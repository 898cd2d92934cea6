"""A tiny LFM2 with its tokenizer, and a few rows of chat, made from scratch."""

import json
import signal
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Cohere2Config,
    Gemma2Config,
    Lfm2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CHATML = (
    "{{- bos_token -}}"
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
SPECIALS = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|a|>", "<|b|>", "<|c|>"]
SPECIALS += ["<|im_start|>", "<|im_end|>"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(SPECIALS)}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[char] = len(vocab)
    for left, right in (merges := [("a", "b"), ("ab", "c"), ("Ċ", "a")]):
        vocab[left + right] = len(vocab)
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIALS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_config(vocab_size: int) -> Lfm2Config:
    return Lfm2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        layer_types=["conv", "conv", "full_attention", "conv"],
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=7,
        architectures=["Lfm2ForCausalLM"],
    )


def small_config(architecture: str, vocab_size: int) -> PreTrainedConfig:
    """Of each architecture that is trained, with all that sets it apart at work."""
    if architecture == "lfm2":
        return tiny_config(vocab_size)
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 7,
    }
    if architecture == "gemma2":
        return Gemma2Config(
            **shared,
            head_dim=16,
            query_pre_attn_scalar=12,
            sliding_window=4,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
            layer_types=["sliding_attention", "full_attention"],
        )
    if architecture == "cohere2":
        return Cohere2Config(
            **shared,
            sliding_window=4,
            logit_scale=0.25,
            layer_types=["sliding_attention", "full_attention"],
        )
    return Qwen2Config(**shared, tie_word_embeddings=False)


@pytest.fixture(autouse=True)
def restored_signals():
    """A command that a test runs in this process takes them for itself."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def init_dir(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("init")
    tokenizer.save_pretrained(folder)
    tiny_config(len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chat.jsonl"
    rows = []
    for i in range(120):
        word = "abcdefgh"[i % 8] * (1 + i % 5)
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"say {word}"},
                    {"role": "assistant", "content": word.upper()},
                ]
            }
        )
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def recipe_file(tmp_path, init_dir, chat_file):
    """Writes a recipe for the tiny model; returns its path."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
[model]
path = "{init_dir}"
init = "random"
compute = "float32"
[data]
train = ["{chat_file}"]
eval = ["{chat_file}"]
seq_len = 64
[optim]
lr = 3e-3
warmup_steps = 2
[train]
out = "{tmp_path / "run"}"
steps = 6
global_batch = 4
micro_batch = 4
threads = 1
[checkpoint]
every = 2
final_dtype = "float32"
[log]
every = 1
eval_every = 3
"""
    )
    return path
