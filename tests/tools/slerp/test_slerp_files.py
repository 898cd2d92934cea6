"""Whose files, and whose configuration, a merged model gets."""

import json
import os
from pathlib import Path

import pytest
from transformers import Gemma2Config, Lfm2Config

from hala_tools.slerp.files import (
    config_differences,
    copy_other_files,
    meaning,
    merged_config,
    tokenizer_differences,
)


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


@pytest.fixture
def base(tmp_path):
    return write(
        tmp_path / "base",
        {
            "config.json": "{}",
            "README.md": "of the base",
            "LICENSE": "terms",
            "modeling_own.py": "code",
            "preprocessor_config.json": "{}",
            "tokenizer.json": '{"model": "base"}',
            "tokenizer_config.json": '{"a": 1, "b": 2}',
            "vocab.json": "{}",
            "generation_config.json": '{"eos_token_id": 1}',
        },
    )


@pytest.fixture
def tuned(tmp_path):
    return write(
        tmp_path / "tuned",
        {
            "config.json": "{}",
            "README.md": "of the tuned",
            "LICENSE": "other terms",
            "tokenizer.json": '{"model": "tuned"}',
            "tokenizer_config.json": '{"b": 2,\n "a": 1}',
            "tokenization_own.py": "code",
            "chat_template.jinja": "{{ messages }}",
            "additional_chat_templates/tools.jinja": "{{ tools }}",
            "generation_config.json": '{"eos_token_id": 2}',
        },
    )


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_everything_is_the_bases_when_the_tokenizer_is(base, tuned, out):
    copy_other_files(base, tuned, "base", out)
    theirs = contents(base)
    assert contents(out) == {n: theirs[n] for n in theirs if n not in ("config.json", "README.md")}


def test_the_tuned_tokenizer_comes_whole_and_without_files_of_the_bases(base, tuned, out):
    copy_other_files(base, tuned, "tuned", out)
    theirs = contents(tuned)
    assert contents(out) == {
        "LICENSE": "terms",
        "modeling_own.py": "code",
        "preprocessor_config.json": "{}",
        **{n: theirs[n] for n in theirs if n not in ("config.json", "README.md", "LICENSE")},
    }


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "model.gguf",
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        "trainer_state.json",
        "adapter_config.json",
        "events.out.tfevents.17.host",
        ".gitattributes",
        "onnx/config.json",
    ],
)
def test_neither_weights_nor_traces_of_training_are_copied(base, tuned, out, name):
    write(base, {name: "x"})
    copy_other_files(base, tuned, "base", out)
    assert name not in contents(out)


def test_links_of_the_hub_cache_become_files(tmp_path, out):
    blobs = write(tmp_path / "blobs", {"1": "tokens", "2": "terms"})
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to(blobs / "1")
    (snapshot / "LICENSE").symlink_to("../../blobs/2")
    copy_other_files(snapshot, snapshot, "tuned", out)
    assert contents(out) == {"tokenizer.json": "tokens", "LICENSE": "terms"}
    assert not any(path.is_symlink() for path in out.iterdir())


def test_every_copy_is_put_on_the_disk(base, tuned, out, monkeypatch):
    synced = set()
    fsync = os.fsync

    def recorded(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", recorded)
    copy_other_files(base, tuned, "tuned", out)
    assert {path.stat().st_ino for path in out.rglob("*")} <= synced


def test_tokenizers_differ_by_value_or_absence(base, tuned):
    assert tokenizer_differences(base, tuned) == [
        "additional_chat_templates/tools.jinja",
        "chat_template.jinja",
        "tokenization_own.py",
        "tokenizer.json",
        "vocab.json",
    ]
    assert tokenizer_differences(base, base) == []


def test_tokenizer_file_that_is_no_json_differs_unless_its_bytes_agree(base, tuned):
    write(base, {"tokenizer_config.json": "{"})
    assert "tokenizer_config.json" in tokenizer_differences(base, tuned)
    write(tuned, {"tokenizer_config.json": "{"})
    assert "tokenizer_config.json" not in tokenizer_differences(base, tuned)


BASE = {
    "model_type": "lfm2", "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2,
    "mask_token_id": 5, "rope_theta": 1e6, "torch_dtype": "float32",
}  # fmt: skip
TUNED = {
    "model_type": "lfm2", "vocab_size": 104, "bos_token_id": 1, "eos_token_id": [2, 103],
    "pad_token_id": 0, "rope_theta": 1e4, "dtype": "float16",
}  # fmt: skip


def test_config_is_the_bases_when_the_tokenizer_is():
    assert merged_config(BASE, TUNED, source="base", dtype=None, vocab_size=None) == BASE


def test_config_has_the_token_numbers_of_the_tuned_tokenizer():
    config = merged_config(BASE, TUNED, source="tuned", dtype=None, vocab_size=None)
    assert config == {
        "model_type": "lfm2", "vocab_size": 104, "bos_token_id": 1, "eos_token_id": [2, 103],
        "pad_token_id": 0, "rope_theta": 1e6, "torch_dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base_config", "key"),
    [({"torch_dtype": "float32"}, "torch_dtype"), ({"dtype": "float32"}, "dtype"), ({}, "dtype")],
)
def test_dtype_is_set_under_the_name_in_use(base_config, key):
    config = merged_config(base_config, {}, source="base", dtype="bfloat16", vocab_size=None)
    assert config == {key: "bfloat16"}


def test_given_vocabulary_size_wins_and_the_inputs_stay_as_they_were():
    base, tuned = dict(BASE), dict(TUNED)
    config = merged_config(base, tuned, source="tuned", dtype="bfloat16", vocab_size=112)
    assert config["vocab_size"] == 112
    assert (base, tuned) == (BASE, TUNED)


def test_differences_are_those_that_change_what_weights_compute():
    base = {
        "rope_theta": 1e6, "norm_eps": 1e-5, "dtype": "bfloat16", "vocab_size": 10,
        "eos_token_id": 2, "use_cache": True, "transformers_version": "4.54.0",
        "vision": {"patch": 14, "dtype": "float32"}, "layer_types": ["conv", "full_attention"],
    }  # fmt: skip
    tuned = {
        "rope_theta": 1e4, "norm_eps": 1e-5, "dtype": "float32", "vocab_size": 12,
        "eos_token_id": 3, "use_cache": False, "transformers_version": "5.0.0",
        "vision": {"patch": 16, "dtype": "bfloat16"}, "layer_types": ["conv", "conv"],
    }  # fmt: skip
    names = config_differences(base, tuned)
    assert sorted(names) == ["layer_types", "rope_theta", "vision.patch"]
    assert [meaning(base)[name] for name in ("rope_theta", "vision.patch")] == [1e6, 14]


def test_a_scaled_rotation_differs_from_a_plain_one():
    plain = {"rope_theta": 1e6, "rope_scaling": None}
    scaled = {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert config_differences(plain, scaled) == ["rope_scaling.rope_type"]


@pytest.mark.parametrize("config_class", [Lfm2Config, Gemma2Config])
def test_config_that_transformers_saves_again_has_no_differences(tmp_path, config_class):
    old = {"rope_theta": 5e5, "hidden_size": 64, "use_cache": True, "num_attention_heads": 4}
    write(tmp_path, {"config.json": json.dumps(old)})
    config_class.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    new = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "rope_parameters" in new
    assert config_differences(old, new) == []
    assert config_differences(old | {"rope_theta": 1e4}, new) == ["rope_theta"]
