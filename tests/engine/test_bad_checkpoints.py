"""A model directory that cannot be used: one line that says what, where and how to mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from checkpoints import rewrite_config, write_checkpoint
from safetensors.torch import load_file, save_file

from hala_engine import Engine, EngineConfig
from hala_engine.cli import app
from hala_engine.cli.exits import run
from hala_engine.errors import InputError

CPU = EngineConfig(device="cpu", dtype="float32")

INDEX = "model.safetensors.index.json"
NORM = "model.layers.1.post_attention_layernorm.weight"
UP = "model.layers.1.mlp.up_proj.weight"
E4M3 = torch.float8_e4m3fn


@pytest.fixture
def directory(tmp_path):
    write_checkpoint(tmp_path)
    return tmp_path


def shard_of(directory: Path, name: str) -> Path:
    return directory / json.loads((directory / INDEX).read_text())["weight_map"][name]


def change_shard(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the tensors of the file that holds `name`."""

    def spoil(directory: Path) -> None:
        path = shard_of(directory, name)
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def replace(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return change_shard(name, lambda tensors: tensors.update({name: make(tensors[name])}))


def change_index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        index = json.loads((directory / INDEX).read_text())
        change(index["weight_map"])
        (directory / INDEX).write_text(json.dumps(index))

    return spoil


def cut(name: str, keep: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Leaves a part of the file that holds `name`."""

    def spoil(directory: Path) -> None:
        path = shard_of(directory, name)
        path.write_bytes(keep(path.read_bytes()))

    return spoil


def settings(**changes) -> Callable[[Path], None]:
    return lambda directory: rewrite_config(directory, **changes)


def add_stray_file(directory: Path) -> None:
    """The index goes, and a file stays that has a tensor of another one."""
    (directory / INDEX).unlink()
    save_file({NORM: torch.ones(64)}, directory / "stray.safetensors")


def quantized(**changes) -> dict:
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights | changes, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
    }


def leave_out_a_scale(directory: Path) -> None:
    """One matrix is FP8, as config.json says, but has no scale."""
    scheme = quantized()
    scheme["config_groups"]["group_0"]["targets"] = [UP.removesuffix(".weight")]
    rewrite_config(directory, quantization_config=scheme)
    replace(UP, lambda t: t.to(E4M3))(directory)


@dataclass(frozen=True)
class Fault:
    """What spoils a sharded Llama checkpoint, and what the message must name; {shard} stands for
    the file that holds `of`."""

    spoil: Callable[[Path], None]
    named: tuple[str, ...]
    of: str = UP


SHARD = "{shard}"

FAULTS = {
    "truncated shard": Fault(
        cut(UP, lambda data: data[:-100]), (SHARD, "ends inside or before tensor model.layers.")
    ),
    "truncated header": Fault(cut(UP, lambda data: data[:50]), (SHARD,)),
    "empty shard": Fault(cut(UP, lambda data: b""), (SHARD,)),
    "shard of something else": Fault(cut(UP, lambda data: b"version https://" * 9), (SHARD,)),
    "wrong shape": Fault(replace(UP, lambda t: t[:5].clone()), (UP, SHARD, "[5, 64]", "[96, 64]")),
    "transposed": Fault(
        replace(UP, lambda t: t.t().contiguous()), (UP, SHARD, "[64, 96]", "[96, 64]")
    ),
    "missing tensor": Fault(
        lambda d: (
            change_shard(UP, lambda tensors: tensors.pop(UP))(d),
            change_index(lambda placed: placed.pop(UP))(d),
        ),
        (UP, "lacks"),
    ),
    "missing tensor that the index places": Fault(
        change_shard(UP, lambda tensors: tensors.pop(UP)), (UP, SHARD, INDEX)
    ),
    "extra tensor": Fault(
        change_shard(UP, lambda t: t.update({"model.layers.9.x": torch.zeros(2)})),
        ("model.layers.9.x", SHARD),
    ),
    "extra bias": Fault(
        change_shard(UP, lambda t: t.update({"model.layers.1.mlp.up_proj.bias": torch.zeros(96)})),
        ("model.layers.1.mlp.up_proj.bias", SHARD),
    ),
    "a matrix of another dtype": Fault(
        replace(UP, lambda t: t.bfloat16()), (UP, SHARD, "BF16", "F32")
    ),
    "a vector of another dtype": Fault(
        replace(NORM, lambda t: t.half()), (NORM, SHARD, "F16", "F32"), of=NORM
    ),
    "integer weights": Fault(replace(UP, lambda t: t.to(torch.int8)), (UP, SHARD, "I8")),
    "float64 weights": Fault(replace(UP, lambda t: t.double()), (UP, SHARD, "F64")),
    "fp8 without a quantization_config": Fault(
        replace(UP, lambda t: t.to(E4M3)), (UP, SHARD, "F8_E4M3")
    ),
    "index naming an absent file": Fault(
        change_index(lambda placed: placed.update({UP: "model-00009-of-00009.safetensors"})),
        (UP, INDEX, "model-00009-of-00009.safetensors"),
    ),
    "index placing a tensor in another file": Fault(
        change_index(lambda placed: placed.update({NORM: placed["model.embed_tokens.weight"]})),
        (NORM, SHARD),
        of="model.embed_tokens.weight",
    ),
    "index that is no index": Fault(
        lambda d: (d / INDEX).write_text('{"metadata": {}}'), (INDEX, "weight_map")
    ),
    "a tensor in two files": Fault(add_stray_file, (NORM, "stray.safetensors", "as well")),
    "another method": Fault(
        settings(quantization_config={"quant_method": "gptq", "bits": 4}),
        ("gptq", "config.json"),
    ),
    "another scheme": Fault(
        settings(quantization_config=quantized(type="int")),
        ("8-bit int", "group_0", "config.json"),
    ),
    "missing scale": Fault(leave_out_a_scale, (UP.replace("weight", "weight_scale"), "lacks")),
    "another activation": Fault(settings(hidden_act="relu"), ("'relu'", "config.json")),
    "another rope": Fault(
        settings(rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        ("longrope", "config.json"),
    ),
    "rope without its factor": Fault(
        settings(rope_parameters={"rope_type": "linear", "rope_theta": 1e4}),
        ("factor", "config.json"),
    ),
    "rope that is no object": Fault(settings(rope_parameters="yarn"), ("config.json",)),
    "a word for a number": Fault(settings(num_hidden_layers="two"), ("config.json",)),
    "a size that is a word": Fault(settings(hidden_size="64"), ("config.json",)),
    "no context": Fault(settings(max_position_embeddings=None), ("max_positions", "config.json")),
    "no epsilon": Fault(settings(rms_norm_eps=None), ("norm_eps", "config.json")),
    "heads that cannot be shared": Fault(
        settings(num_key_value_heads=3), ("3 KV heads", "config.json")
    ),
    "another architecture": Fault(settings(model_type="mamba"), ("'mamba'", "llama")),
    "fewer layers": Fault(settings(num_hidden_layers=4), ("model.layers.4.", "layer counts")),
    "more layers": Fault(settings(num_hidden_layers=6), ("model.layers.5.", "lacks")),
}


@pytest.fixture
def sharded(tmp_path):
    directory = tmp_path / "model"
    write_checkpoint(directory, "llama", shard_size="60KB", tie_word_embeddings=True)
    assert len(list(directory.glob("*.safetensors"))) > 3
    return directory


def refused(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        Engine(directory, config=CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FAULTS)
def test_one_line_and_exit_code_2_and_no_output(name, sharded, monkeypatch, capsys):
    fault = FAULTS[name]
    shard = shard_of(sharded, fault.of).name
    fault.spoil(sharded)
    (sharded.parent / "in.txt").write_text("One line.\n")
    monkeypatch.chdir(sharded.parent)
    monkeypatch.setattr(
        sys, "argv", ["hala-engine", "translate", "in.txt", "--output", "out", "--model", "model"]
    )
    assert run(app) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("hala-engine: ")]
    assert printed.err.splitlines() == [line]
    for part in fault.named:
        assert part.format(shard=shard) in line
    assert not (sharded.parent / "out").exists()
    assert printed.out == ""


def test_the_command_itself(sharded):
    FAULTS["truncated shard"].spoil(sharded)
    (sharded.parent / "in.txt").write_text("One line.\n")
    command = [sys.executable, "-m", "hala_engine.cli", "translate", "in.txt", "--output", "out"]
    done = subprocess.run(
        [*command, "--model", "model"], cwd=sharded.parent, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("hala-engine: error: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in sharded.parent.iterdir()) == ["in.txt", "model"]


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


def test_config_without_a_needed_key(directory):
    rewrite_config(directory, drop=("hidden_size",))
    assert "hidden_size" in refused(directory)


def test_a_convolution_of_unsupported_length(directory):
    rewrite_config(directory, conv_L_cache=7)
    assert "conv_L_cache must be 2, 3 or 4, not 7" in refused(directory)


WINDOWED = {"use_sliding_window": True, "sliding_window": 5}


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("lfm2", {"layer_types": ["conv"] * 4 + ["mamba"]}, "layer_types"),
        ("lfm2", {"layer_types": ["conv"] * 4}, "layer_types"),
        ("cohere2", {"layer_types": ["sliding_attention"] * 9}, "layer_types"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 5}, "layer_types"),
        ("qwen2", WINDOWED | {"layer_types": ["conv"] * 5}, "layer_types"),
        ("cohere2", {"sliding_window": None}, "sliding_window"),
        ("gemma2", {"sliding_window": 0}, "sliding_window"),
        ("gemma2", {"hidden_activation": "gelu"}, "'gelu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_settings_that_no_model_here_has(architecture, changes, named, tmp_path):
    write_checkpoint(tmp_path, architecture)
    rewrite_config(tmp_path, **changes)
    message = refused(tmp_path)
    assert named in message and "config.json" in message


def test_no_memory_for_the_cache(directory, monkeypatch):
    monkeypatch.setattr("hala_engine.engine.available_memory", lambda device: 1000)
    assert "--max-batch-size" in refused(directory)
