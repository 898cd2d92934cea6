"""Random LFM2 checkpoints: one set of bf16 weights, as a Hugging Face directory and as a GGUF."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Bump when what is written changes, so that a stale cache directory is not taken for a good one.
FORMAT = 1


@dataclass(frozen=True)
class Dims:
    """Dimensions of an LFM2 model; the defaults are LFM2-350M's."""

    vocab: int = 65536
    hidden: int = 1024
    layers: int = 16
    heads: int = 16
    kv_heads: int = 8
    ff: int = 4608
    attention_layers: tuple[int, ...] = (2, 5, 8, 10, 12, 14)
    context: int = 4096

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def conv_layers(self) -> int:
        return self.layers - len(self.attention_layers)

    def layer_linears(self, layer: int) -> list[tuple[int, int]]:
        """(out, in) of every matrix that one layer multiplies by."""
        kv = self.kv_heads * self.head_dim
        if layer in self.attention_layers:
            mixer = [(self.hidden, self.hidden), (kv, self.hidden), (kv, self.hidden)]
        else:
            mixer = [(3 * self.hidden, self.hidden)]
        mlp = [(self.ff, self.hidden), (self.ff, self.hidden), (self.hidden, self.ff)]
        return [*mixer, (self.hidden, self.hidden), *mlp]

    def body_flops(self) -> int:
        """GEMM FLOPs of one token through all layers, without the output projection."""
        linears = (shape for i in range(self.layers) for shape in self.layer_linears(i))
        return sum(2 * out * inner for out, inner in linears)

    def head_flops(self) -> int:
        return 2 * self.vocab * self.hidden


TINY = Dims(
    vocab=512, hidden=64, layers=3, heads=4, kv_heads=2, ff=128, attention_layers=(1,), context=512
)


def ensure(directory: Path, dims: Dims) -> Path:
    """The checkpoint directory, written once; `model.gguf` is added when `gguf` is installed."""
    stamp = json.dumps({"format": FORMAT, "dims": repr(dims)})
    marker = directory / "bench.json"
    if not marker.exists() or marker.read_text() != stamp:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _write_huggingface(directory, dims)
        marker.write_text(stamp)
    return directory


def ensure_gguf(directory: Path, dims: Dims) -> Path:
    target = directory / "model.gguf"
    if not target.exists():
        partial = target.with_suffix(".partial")
        _write_gguf(directory / "model.safetensors", partial, dims)
        partial.rename(target)
    return target


def _write_huggingface(directory: Path, dims: Dims) -> None:
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=dims.vocab,
        hidden_size=dims.hidden,
        intermediate_size=dims.ff,
        num_hidden_layers=dims.layers,
        num_attention_heads=dims.heads,
        num_key_value_heads=dims.kv_heads,
        max_position_embeddings=dims.context,
        block_auto_adjust_ff_dim=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        full_attn_idxs=list(dims.attention_layers),
        eos_token_id=7,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = Lfm2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    _write_tokenizer(directory, dims.vocab)


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte-level BPE whose tokens are a, b, ..., aa, ab, ..., one for each embedding row."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["<|pad|>", "<|startoftext|>", "<|endoftext|>"]
    special += [f"<|reserved_{i}|>" for i in range(3, 6)]
    special += ["<|im_start|>", "<|im_end|>"]
    special += [f"<|reserved_{i}|>" for i in range(8, 64)]
    words: list[str] = list(letters)
    merges: list[tuple[str, str]] = []
    # The list grows while it is read: each token is extended by every letter in turn, so a merge's
    # left half always exists before the merge.
    for stem in words:
        room = vocab_size - len(special) - len(words)
        if room <= 0:
            break
        for letter in letters[:room]:
            words.append(stem + letter)
            merges.append((stem, letter))
    vocab = {token: i for i, token in enumerate(special + words)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=special[2:7],
    )
    tokenizer.save_pretrained(directory)


def _write_gguf(source: Path, target: Path, dims: Dims) -> None:
    import gguf
    import torch
    from safetensors.torch import load_file

    tensors = load_file(str(source))
    writer = gguf.GGUFWriter(str(target), "lfm2")
    writer.add_name("random lfm2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(dims.context)
    writer.add_embedding_length(dims.hidden)
    writer.add_block_count(dims.layers)
    writer.add_feed_forward_length(dims.ff)
    writer.add_head_count(dims.heads)
    writer.add_head_count_kv(
        [dims.kv_heads if i in dims.attention_layers else 0 for i in range(dims.layers)]
    )
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_vocab_size(dims.vocab)
    writer.add_shortconv_l_cache(3)
    writer.add_tokenizer_model("none")

    for name, tensor in tensors.items():
        if name == "lm_head.weight":
            continue  # tied: llama.cpp reads the embedding again
        if tensor.ndim == 2:
            # GGUF takes bf16 as raw bytes; the writer divides the last dimension by two.
            raw = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(_gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            # Norms and the depthwise filter [hidden, 1, taps] -> [hidden, taps] are float32 there.
            writer.add_tensor(_gguf_name(name), np.squeeze(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_GGUF_PARTS = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
}


def _gguf_name(name: str) -> str:
    stem = name.removeprefix("model.").removesuffix(".weight")
    if stem == "embed_tokens":
        return "token_embd.weight"
    if stem == "embedding_norm":
        return "token_embd_norm.weight"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_GGUF_PARTS[part]}.weight"
