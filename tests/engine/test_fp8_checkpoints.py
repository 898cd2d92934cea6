"""FP8 checkpoints that others write. On the CPU their weights are de-quantized at load and
activations are left as they are, so that is what the oracles compute.

tests/data/llmcompressor was written by LLM Compressor through bench/fp8_exchange.py, and its
logits by `transformers` with compressed-tensors. Of fine-grained FP8 there is no oracle that reads
every form (`transformers` 5.23 takes ragged blocks for smaller ones and does not know
`weight_scale`), so those weights are de-quantized here in float64.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from all_logits import logits_of
from checkpoints import oracle_logits
from fp8_checkpoints import (
    CHANNELS,
    GOLDENS,
    LAYOUTS,
    VOCAB,
    Layout,
    arguments,
    compressed,
    group,
    write_quantized,
)
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hala_engine import Engine, EngineConfig

CPU = EngineConfig(device="cpu", dtype="float32")


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4 of the largest logit."""
    worst = float((actual - expected).abs().max() / expected.abs().max())
    assert worst < 1e-4, worst


def engine_logits(directory: Path, prompts: list[list[int]]) -> list[torch.Tensor]:
    engine = Engine(directory, config=CPU)
    return [logits for _, logits in logits_of(engine, prompts, new_tokens=1)]


@pytest.mark.parametrize("name", ["fp8_static", "fp8_dynamic", "fp8_block", "fp8_kv", "fp8_groups"])
def test_what_llm_compressor_writes_gives_the_logits_of_transformers(name):
    expected = load_file(GOLDENS / f"{name}.expected.safetensors")
    prompts = [expected[f"tokens.{i}"].tolist() for i in range(3)]
    for i, logits in enumerate(engine_logits(GOLDENS / name, prompts)):
        close(logits, expected[f"logits_weights_only.{i}"])
        # The rounding of activations is far larger than the tolerance: the test sees errors.
        with pytest.raises(AssertionError):
            close(logits, expected[f"logits.{i}"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_equals_float64_dequantization(tmp_path, name):
    layout = LAYOUTS[name]
    kept = layout.config.get("modules_to_not_convert", [])
    oracle = write_quantized(tmp_path, layout, ("lm_head", *kept))
    same_as_oracle(tmp_path, oracle)


def same_as_oracle(directory: Path, oracle: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(8, VOCAB, (n,), generator=generator).tolist() for n in (1, 9, 20)]
    for prompt, logits in zip(prompts, engine_logits(directory, prompts), strict=True):
        close(logits, oracle_logits(oracle, prompt))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_pattern_goes_before_a_class_whichever_group_comes_first(tmp_path, reverse):
    # As compressed-tensors and vLLM decide it. That all is by channel shows in the scales' shapes.
    groups = {
        "group_0": group(arguments("tensor"), None, "Linear"),
        "group_1": group(arguments("channel"), None, "re:.*_proj"),
    }
    if reverse:
        groups = dict(reversed(groups.items()))
    layout = Layout(compressed(groups), by="channel", scale="weight_scale")
    same_as_oracle(tmp_path, write_quantized(tmp_path, layout))


@pytest.mark.parametrize(
    "ignore", [["re:.*down_proj", "lm_head"], ["model.layers.0.mlp.down_proj", "lm_head"]]
)
def test_ignored_modules_are_read_as_they_are(tmp_path, ignore):
    names = [f"model.layers.{i}.mlp.down_proj" for i in range(2 if ignore[0][:3] == "re:" else 1)]
    config = compressed({"group_0": CHANNELS}, ignore=ignore)
    layout = Layout(config, by="channel", scale="weight_scale")
    same_as_oracle(tmp_path, write_quantized(tmp_path, layout, ("lm_head", *names)))
