"""`python -m bench.fp8_exchange`: FP8 checkpoints to and from LLM Compressor and `transformers`.

`--out DIR`: LLM Compressor quantizes small random models into DIR/NAME; beside each,
DIR/NAME.expected.safetensors has the logits that `transformers` with compressed-tensors computes
from it in float32: `logits.i` of the prompt `tokens.i`, and `logits_weights_only.i`, where the
activations and the K and V are left as they are. tests/data/llmcompressor is what this wrote.

`--checkpoint DIR [--source DIR]`: the other way. A checkpoint that `hala-engine quantize` wrote is
loaded in `transformers` with compressed-tensors, which must know each of its tensors, and in our
engine; the differences of the logits are printed, with `--source` also those to the original.

Needs the `bench` extra. LLM Compressor 0.14 wants transformers 5.17.
"""

import argparse
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Lfm2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tests.engine.checkpoints import randomise, write_tokenizer

FIRST_ORDINARY_ID = 8
CALIBRATION = (8, 32)
"""Random sequences that static scales are found from, and their length."""

E4M3 = {"num_bits": 8, "type": "float", "symmetric": True}
CHANNEL = {"strategy": "channel", "dynamic": False}
BLOCK = {"strategy": "block", "block_structure": [128, 128], "dynamic": False}
TENSOR = {"strategy": "tensor", "dynamic": False}
TOKEN = {"strategy": "token", "dynamic": True}


def group(targets: list[str], weights: dict, activations: dict | None) -> dict[str, Any]:
    """One of several quantization schemes of a model."""
    scheme = {"targets": targets, "weights": E4M3 | weights}
    return scheme | ({"input_activations": E4M3 | activations} if activations else {})


@dataclass(frozen=True)
class Golden:
    """A random model of `config`, and the arguments of the QuantizationModifier for it."""

    config: PreTrainedConfig
    recipe: dict[str, Any]
    dtype: torch.dtype = torch.bfloat16
    save: dict[str, str] = field(default_factory=dict)
    calibrated: bool = False


def goldens() -> dict[str, Golden]:
    llama = {
        "vocab_size": 200,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "eos_token_id": 7,
    }
    lfm2 = llama | {
        "num_hidden_layers": 3,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    }
    # compressed-tensors multiplies by groups of 128 columns, so these are multiples of 128; K and V
    # have 32 rows. The several schemes below have ragged rows and columns.
    qwen2 = llama | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    }
    ragged = llama | {
        "hidden_size": 160,
        "intermediate_size": 200,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
    }
    linears = {"targets": "Linear", "ignore": ["lm_head"]}
    several = {
        "group_0": group(["Linear"], CHANNEL, TOKEN),
        "group_1": group([r"re:.*\.(q_proj|down_proj)$"], BLOCK, None),
        "group_2": group(["model.layers.1.self_attn.o_proj"], TENSOR, TENSOR),
    }
    return {
        "fp8_static": Golden(
            LlamaConfig(**llama),
            linears | {"scheme": "FP8"},
            dtype=torch.float32,
            calibrated=True,
        ),
        "fp8_dynamic": Golden(Lfm2Config(**lfm2), linears | {"scheme": "FP8_DYNAMIC"}),
        "fp8_block": Golden(Qwen2Config(**qwen2), linears | {"scheme": "FP8_BLOCK"}),
        "fp8_kv": Golden(
            LlamaConfig(**llama),
            linears | {"scheme": "FP8_DYNAMIC", "kv_cache_scheme": E4M3 | TENSOR},
            calibrated=True,
        ),
        "fp8_groups": Golden(
            LlamaConfig(**ragged),
            {"config_groups": several, "ignore": ["re:.*layers.0.*up_proj"]},
            save={"max_shard_size": "200KB"},
            calibrated=True,
        ),
    }


def write_golden(golden: Golden, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    vocab = golden.config.vocab_size
    with TemporaryDirectory() as source:
        random_model(golden.config).to(golden.dtype).save_pretrained(source)
        write_tokenizer(Path(source), vocab)
        model = quantized(Path(source), golden)
        model.save_pretrained(directory, **golden.save)
    write_tokenizer(directory, vocab)

    prompts = random_prompts(vocab, lengths=(3, 12, 21))
    reference = load_reference(directory)
    expected = {f"tokens.{i}": prompt for i, prompt in enumerate(prompts)}
    for i, logits in enumerate(logits_of(reference, prompts)):
        expected[f"logits.{i}"] = logits
    keep_activations(reference)
    for i, logits in enumerate(logits_of(reference, prompts)):
        expected[f"logits_weights_only.{i}"] = logits
    packages = ("llmcompressor", "compressed-tensors", "transformers", "torch")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    save_file(
        expected,
        directory.with_name(directory.name + ".expected.safetensors"),
        metadata={"versions": versions},
    )


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    randomise(model)
    return model


def quantized(source: Path, golden: Golden) -> PreTrainedModel:
    """The checkpoint at `source`, quantized by LLM Compressor."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    data: dict[str, Any] = {}
    if golden.calibrated:
        count, length = CALIBRATION
        rows = random_prompts(golden.config.vocab_size, lengths=(length,) * count, seed=1)
        data = {
            "dataset": Dataset.from_dict({"input_ids": [row.tolist() for row in rows]}),
            "processor": PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json")),
            "max_seq_length": length,
            "num_calibration_samples": count,
        }
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    return oneshot(model=model, recipe=QuantizationModifier(**golden.recipe), **data)


def load_reference(directory: Path) -> PreTrainedModel:
    """The checkpoint in `transformers`, float32. Ends the program if a tensor found no place."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {what: sorted(names) for what, names in report.items() if names}
    if wrong:
        raise SystemExit(f"{directory}: transformers could not place every tensor: {wrong}")
    return model.eval()


def keep_activations(model: PreTrainedModel) -> None:
    """No more rounding of activations, K and V to e4m3; the weights stay as they were rounded."""
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            module.quantization_enabled = False


def random_prompts(vocab: int, lengths: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(FIRST_ORDINARY_ID, vocab, (n,), generator=generator) for n in lengths]


@torch.inference_mode()
def logits_of(model: PreTrainedModel, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    """[tokens, vocab] of each prompt."""
    return [model(prompt[None]).logits[0].float().clone() for prompt in prompts]


def our_logits(directory: Path, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    from hala_engine import Engine, EngineConfig
    from tests.engine.all_logits import logits_of as engine_logits

    engine = Engine(directory, config=EngineConfig(device="cpu", dtype="float32"))
    outputs = engine_logits(engine, [prompt.tolist() for prompt in prompts], new_tokens=1)
    return [logits for _, logits in outputs]


def relative(values: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Norm of the difference over the norm of the reference, over all prompts."""
    a, b = torch.cat(values).double(), torch.cat(reference).double()
    return float((a - b).norm() / b.norm())


def compare(directory: Path, source: Path | None) -> None:
    vocab = AutoConfig.from_pretrained(directory).vocab_size
    prompts = random_prompts(vocab, lengths=(5, 33, 64))
    reference = load_reference(directory)
    rounded = logits_of(reference, prompts)
    keep_activations(reference)
    weights_only = logits_of(reference, prompts)
    ours = our_logits(directory, prompts)
    print(f"{directory}: relative difference of the logits")
    print(f"  ours to transformers, weights only    {relative(ours, weights_only):.2e}")
    print(f"  activations in e4m3 to weights only   {relative(rounded, weights_only):.2e}")
    if source:
        original = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        difference = relative(weights_only, logits_of(original, prompts))
        print(f"  weights only to the original          {difference:.2e}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fp8_exchange", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, help="write the goldens here")
    parser.add_argument("--checkpoint", type=Path, help="an FP8 checkpoint to read")
    parser.add_argument("--source", type=Path, help="the checkpoint it was quantized from")
    options = parser.parse_args()
    if not options.out and not options.checkpoint:
        parser.error("give --out or --checkpoint")
    if options.out:
        for name, golden in goldens().items():
            write_golden(golden, options.out / name)
    if options.checkpoint:
        compare(options.checkpoint, options.source)


if __name__ == "__main__":
    main()
