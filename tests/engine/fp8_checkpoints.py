"""FP8 checkpoints for tests: those that LLM Compressor wrote, and random ones in the forms that
others write, with `transformers` on weights de-quantized in float64 as the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from checkpoints import randomise, rewrite_config, write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

GOLDENS = Path(__file__).parents[1] / "data" / "llmcompressor"
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448
BLOCK = 128
VOCAB = 200


@dataclass(frozen=True)
class Layout:
    """How the linear modules of a test checkpoint are quantized.

    config: the quantization_config of config.json. by: what shares a scale, "tensor", "channel" or
    "block". scale, dtype, shape: name, dtype and shape (None: as computed) of the scale tensor.
    input_scale, input_shape: name and shape of a static scale of the input.
    """

    config: dict
    by: str = "block"
    scale: str = "weight_scale_inv"
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] | None = None
    input_scale: str | None = None
    input_shape: tuple[int, ...] = ()


def fp8(**settings) -> dict:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", **settings}


def compressed(groups: dict, **settings) -> dict:
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "float-quantized",
        "config_groups": groups,
        "ignore": ["lm_head"],
        **settings,
    }


def arguments(strategy: str, dynamic: bool = False, **settings) -> dict:
    """What compressed-tensors calls QuantizationArgs."""
    fixed = {"num_bits": 8, "type": "float", "symmetric": True}
    return fixed | {"strategy": strategy, "dynamic": dynamic} | settings


def group(weights: dict, activations: dict | None, *targets: str) -> dict:
    return {"targets": [*targets], "weights": weights, "input_activations": activations}


BLOCKS = [BLOCK, BLOCK]
CHANNELS = group(arguments("channel"), arguments("token", dynamic=True), "Linear")
TENSORS = group(arguments("tensor"), arguments("token", dynamic=True), "Linear")
BY_BLOCK = arguments("block", block_structure=BLOCKS)
BY_BLOCK_OLD = arguments("block", block_structure="128x128")
GROUPS_OF_128 = arguments("group", dynamic=True, group_size=BLOCK)

LAYOUTS = {
    "deepseek": Layout(fp8(fmt="e4m3", weight_block_size=BLOCKS)),
    "qwen3": Layout(
        fp8(
            fmt="e4m3",
            weight_block_size=BLOCKS,
            modules_to_not_convert=["lm_head", "model.layers.0.mlp.up_proj"],
        ),
        dtype=torch.bfloat16,
    ),
    "ue8m0": Layout(fp8(weight_block_size=BLOCKS, scale_fmt="ue8m0"), dtype=torch.float8_e8m0fnu),
    "mistral": Layout(
        fp8(activation_scheme="static", weight_block_size=None),
        by="tensor",
        shape=(),
        input_scale="activation_scale",
    ),
    "vllm": Layout(fp8(ignored_layers=["lm_head"]), by="tensor", scale="weight_scale", shape=()),
    "autofp8": Layout(
        fp8(activation_scheme="static"),
        by="tensor",
        scale="weight_scale",
        shape=(1,),
        input_scale="input_scale",
        input_shape=(1,),
    ),
    "float32 blocks": Layout(
        compressed({"group_0": group(BY_BLOCK, GROUPS_OF_128, "Linear")}), scale="weight_scale"
    ),
    "blocks written as text": Layout(
        compressed({"group_0": group(BY_BLOCK_OLD, GROUPS_OF_128, "Linear")}), scale="weight_scale"
    ),
    "channels without a second dimension": Layout(
        compressed({"group_0": CHANNELS}), by="channel", scale="weight_scale", shape=(-1,)
    ),
    "scalar": Layout(compressed({"group_0": TENSORS}), by="tensor", scale="weight_scale", shape=()),
    "float16 scales": Layout(
        compressed({"group_0": CHANNELS}), by="channel", scale="weight_scale", dtype=torch.float16
    ),
}


def scales_of(weight: torch.Tensor, by: str) -> torch.Tensor:
    """float64 scales, [1, 1], [N, 1] or one a block; a ragged block counts as padded by zeros."""
    if by == "tensor":
        return weight.abs().amax().reshape(1, 1) / E4M3_MAX
    if by == "channel":
        return weight.abs().amax(1, keepdim=True) / E4M3_MAX
    parts = [rows.split(BLOCK, dim=1) for rows in weight.split(BLOCK)]
    maxima = [[part.abs().amax() for part in row] for row in parts]
    return torch.stack([torch.stack(row) for row in maxima]) / E4M3_MAX


def spread(scale: torch.Tensor, shape: torch.Size, by: str) -> torch.Tensor:
    if by != "block":
        return scale.expand(shape)
    rows, columns = shape
    return scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]


def quantize(weight: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """(e4m3 [N, K], its scale as it is stored, but for the shape)."""
    exact = scales_of(weight.double(), layout.by)
    if layout.dtype == torch.float8_e8m0fnu:
        exact = exact.log2().ceil().exp2()
    scale = exact.float().to(layout.dtype)
    scaled = weight.double() / spread(scale.float().double(), weight.shape, layout.by)
    return scaled.clamp(-E4M3_MAX, E4M3_MAX).float().to(E4M3), scale


def dequantize(weight: torch.Tensor, scale: torch.Tensor, by: str) -> torch.Tensor:
    return (weight.double() * spread(scale.float().double(), weight.shape, by)).float()


def random_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        # 160 and 200 leave ragged blocks below and at the right.
        hidden_size=160,
        intermediate_size=200,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=7,
        attn_implementation="eager",
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    randomise(model)
    return model


def write_quantized(
    directory: Path, layout: Layout, kept: tuple[str, ...] = ("lm_head",)
) -> PreTrainedModel:
    """A random checkpoint in `layout`, all linear modules but `kept`; returns its oracle."""
    model = random_model()
    model.save_pretrained(directory)
    write_tokenizer(directory, VOCAB)
    rewrite_config(directory, quantization_config=layout.config)
    stored, exact = {}, {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        module = name.removesuffix(".weight")
        stored[name], exact[name] = tensor, tensor.float()
        if not module.endswith("_proj") or module in kept:
            continue
        weight, scale = quantize(tensor, layout)
        exact[name] = dequantize(weight, scale, layout.by)
        stored[name] = weight
        shape = scale.shape if layout.shape is None else layout.shape
        stored[f"{module}.{layout.scale}"] = scale.reshape(shape)
        if layout.input_scale:
            stored[f"{module}.{layout.input_scale}"] = torch.full(layout.input_shape, 0.01)
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    # A new model: the rotary frequencies of that one were rounded with its weights.
    oracle = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    oracle.load_state_dict(exact)
    return oracle.eval()
