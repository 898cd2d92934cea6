"""Rotary angles of published sizes, by every way to stretch them, against `transformers`."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hala_engine.errors import InputError
from hala_engine.layers.rotary import RopeConfig, Rotary

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

CONFIGS = {
    "lfm2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "no rope at all": {},
    "theta alone": {"rope_theta": 5e4},
    "linear": {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_theta": 1e4, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama 3.1": {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    "llama 3.2": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, "factor": 32.0}},
    "llama3 of the model's length": {
        "max_position_embeddings": 4096,
        "rope_parameters": {
            **{k: v for k, v in LLAMA3.items() if not k.startswith("original")},
            "rope_theta": 5e5,
        },
    },
    "qwen2.5": {"rope_theta": 1e6, "rope_scaling": {**YARN, "type": "yarn"}},
    "yarn, factor from lengths": {
        "max_position_embeddings": 131072,
        "rope_parameters": {**YARN, "rope_theta": 1e6, "factor": None},
    },
    "yarn, original length beside it": {
        "original_max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
    },
    "yarn, mscale": {
        "rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 0.707, "mscale_all_dim": 1.1}
    },
    "yarn, mscale alone": {"rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 0.707}},
    "yarn, attention_factor": {
        "rope_parameters": {**YARN, "rope_theta": 1e4, "attention_factor": 0.9}
    },
    "yarn, not truncated": {"rope_parameters": {**YARN, "rope_theta": 1.5e5, "truncate": False}},
    "yarn, betas": {"rope_parameters": {**YARN, "rope_theta": 1e4, "beta_fast": 8, "beta_slow": 3}},
    "yarn, no ramp": {
        "rope_parameters": {
            **YARN,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 3,
            "truncate": True,
        }
    },
    "yarn, factor 1": {"rope_parameters": {**YARN, "rope_theta": 1e4, "factor": 1.0}},
}


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("name", CONFIGS)
def test_angles_are_those_of_transformers(name, head_dim):
    raw = {"max_position_embeddings": 8192, **CONFIGS[name]}
    # LlamaConfig writes into the dictionaries that it is given.
    theirs = LlamaRotaryEmbedding(LlamaConfig(head_dim=head_dim, **deepcopy(raw)))
    ours = Rotary(head_dim, RopeConfig.from_hf(raw), torch.device("cpu"))
    torch.testing.assert_close(ours.frequencies, theirs.inv_freq, rtol=1e-6, atol=0)
    assert ours.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)
    positions = torch.tensor([0, 1, 2, 63, 500])
    expected = theirs(torch.zeros(1), positions[None])
    for got, wanted in zip(ours(positions), expected, strict=True):
        # Theirs has each angle twice, for both halves.
        torch.testing.assert_close(got, wanted[0, :, : head_dim // 2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["longrope", "proportional", "su"])
def test_other_kinds_are_refused_by_name(kind):
    with pytest.raises(InputError, match=f"rope_type '{kind}'"):
        RopeConfig.from_hf({"rope_parameters": {"rope_type": kind, "rope_theta": 1e4}})


@pytest.mark.parametrize("where", ["rope_parameters", None])
def test_a_partial_rotation_is_refused(where):
    factor = {"partial_rotary_factor": 0.5}
    raw = {where: factor} if where else factor
    with pytest.raises(InputError, match="partial_rotary_factor"):
        RopeConfig.from_hf(raw | {"rope_theta": 1e4})


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_a_missing_factor_is_named(kind):
    with pytest.raises(KeyError, match="factor"):
        RopeConfig.from_hf({"rope_scaling": {"type": kind}, "max_position_embeddings": 64})
