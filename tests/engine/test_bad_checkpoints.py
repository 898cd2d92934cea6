"""A model directory that cannot be used: one line that says what, where and how to mend it."""

from __future__ import annotations

import json

import pytest
import torch
from lfm2_checkpoints import rewrite_config, write_checkpoint
from safetensors.torch import load_file, save_file

from hala_engine import Engine, EngineConfig
from hala_engine.errors import InputError

CPU = EngineConfig(device="cpu", dtype="float32")


@pytest.fixture
def directory(tmp_path):
    write_checkpoint(tmp_path)
    return tmp_path


def change_tensors(directory, change) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(directory) -> str:
    with pytest.raises(InputError) as caught:
        Engine(directory, config=CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_directory(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory(directory):
    assert "is a file" in refused(directory / "config.json")


def test_no_weights(directory):
    (directory / "model.safetensors").unlink()
    assert "has no weights" in refused(directory)


def test_no_config(directory):
    (directory / "config.json").unlink()
    assert "config.json" in refused(directory)


def test_broken_config(directory):
    (directory / "config.json").write_text("{")
    assert "not valid JSON" in refused(directory)


def test_unsupported_architecture(directory):
    rewrite_config(directory, model_type="mamba")
    message = refused(directory)
    assert "'mamba'" in message and "lfm2" in message


def test_config_without_a_needed_key(directory):
    rewrite_config(directory, drop=("hidden_size",))
    assert "hidden_size" in refused(directory)


def test_a_convolution_of_unsupported_length(directory):
    rewrite_config(directory, conv_L_cache=7)
    assert "conv_L_cache must be 2, 3 or 4, not 7" in refused(directory)


def test_unsupported_rope(directory):
    rewrite_config(directory, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4})
    assert "yarn" in refused(directory)


def test_truncated_weights(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors" in refused(directory)


def test_missing_tensor(directory):
    change_tensors(directory, lambda t: t.pop("model.layers.0.ffn_norm.weight"))
    assert "model.layers.0.ffn_norm.weight" in refused(directory)


def test_extra_tensor(directory):
    change_tensors(directory, lambda t: t.update({"model.layers.9.x": torch.zeros(2)}))
    message = refused(directory)
    assert "model.layers.9.x" in message and "model.safetensors" in message


def test_wrong_shape(directory):
    name = "model.embedding_norm.weight"
    change_tensors(directory, lambda t: t.update({name: torch.ones(5)}))
    message = refused(directory)
    assert name in message and "[5]" in message and "[64]" in message


def test_index_names_an_absent_file(directory):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in refused(directory)


def test_no_memory_for_the_cache(directory, monkeypatch):
    monkeypatch.setattr("hala_engine.engine.available_memory", lambda device: 1000)
    assert "--max-batch-size" in refused(directory)
