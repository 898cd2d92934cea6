"""Model FLOPs: what torch counts on the same model, no work that was not done, and peaks."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from hala_trainer.flops import model_flops, peak_flops, visible_pairs
from tests.trainer.tiny_configs import OWN, SIZES

WIDTHS = {"lfm2": [32], "gemma2": [64] * 4, "cohere2": [32] * 4, "qwen2": [32] * 4}


def tiny(kind: str):
    config = AutoConfig.for_model(kind, **(SIZES | OWN[kind]))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def counted(model, rows: int, length: int) -> int:
    """FLOPs of the matrix products of a forward and a backward pass, as torch counts them; not of
    RoPE's angles, which older `transformers` write as one."""
    with FlopCounterMode(display=False) as counter:
        ids = torch.zeros(rows, length, dtype=torch.int64)
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    by_module = {
        name: sum(n for op, n in counts.items() if "mm" in str(op))
        for name, counts in counter.get_flop_counts().items()
    }
    angles = sum(n for name, n in by_module.items() if name.endswith("rotary_emb"))
    return by_module["Global"] - angles


@pytest.mark.parametrize("kind", OWN)
def test_flops_of_one_token_documents_equal_those_that_torch_counts(kind):
    model = tiny(kind)
    ours = model_flops(model).step(np.ones(6, np.int64), supervised=6)
    assert ours == counted(model, 6, 1)


@pytest.mark.parametrize("kind", OWN)
def test_longer_documents_differ_from_torch_by_the_pairs_that_are_masked(kind):
    """Eager attention computes all L x L pairs; only the visible ones are the model's."""
    model, length = tiny(kind), 9
    window = getattr(model.config, "sliding_window", None)
    kinds = [k for k in model.config.layer_types if k != "conv"]
    masked = 0
    for k, width in zip(kinds, WIDTHS[kind], strict=True):
        sees = window if k == "sliding_attention" else length
        masked += 12 * width * (length**2 - sum(min(i + 1, sees) for i in range(length)))
    ours = model_flops(model).step(np.full(3, length), supervised=3 * length)
    assert ours == counted(model, 3, length) - 3 * masked


def test_the_output_layer_counts_for_supervised_tokens_alone():
    flops = model_flops(tiny("gemma2"))
    lengths = np.array([5, 7])
    difference = flops.step(lengths, 12) - flops.step(lengths, 2)
    assert difference == 6 * 96 * 32 * 10


def test_documents_do_not_see_each_other():
    flops = model_flops(tiny("qwen2"))
    apart, joined = flops.step(np.array([4, 4]), 8), flops.step(np.array([8]), 8)
    assert joined - apart == 12 * 32 * 4 * 16


def test_a_model_on_the_meta_device_counts_the_same():
    model = tiny("lfm2")
    before = model_flops(model)
    assert model_flops(model.to("meta")) == before


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_visible_pairs_are_those_of_the_mask(window):
    lengths = np.array([1, 2, 5, 11])
    pairs = sum(min(place + 1, window or place + 1) for n in lengths.tolist() for place in range(n))
    assert visible_pairs(lengths, window) == pairs


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_peaks_are_found_by_the_names_that_torch_gives(name, tflops):
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize("name", ["cpu", "NVIDIA A10G", "NVIDIA RTX A4000", "NVIDIA H20"])
def test_devices_that_are_not_known_have_no_peak(name):
    assert peak_flops(name) is None
