"""From the files of a model directory to the parameters of the model that is trained."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hala_trainer.config import ModelConfig
from hala_trainer.errors import InputError
from hala_trainer.model import loading
from hala_trainer.model.packed import ARCHITECTURES, PackedModel
from tests.trainer.conftest import small_config

VOCAB = 64
CPU = torch.device("cpu")


def filled(architecture: str, folder, **model) -> PackedModel:
    made = loading.build(small_config(architecture, VOCAB), "float32")
    loading.fill(made, folder, ModelConfig(**model), CPU)
    return made


def stock(architecture: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(small_config(architecture, VOCAB))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_in_several_files_gives_its_values_and_real_buffers(architecture, tmp_path):
    theirs = stock(architecture)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    ours = filled(architecture, tmp_path)
    for kind in ("parameters", "buffers"):
        found = dict(getattr(ours, f"named_{kind}")())
        expected = dict(getattr(theirs, f"named_{kind}")())
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.device == CPU
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name]), name
    assert all(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_values_of_every_dtype_become_float32_as_they_are(dtype, tmp_path):
    stock("lfm2").to(dtype).save_pretrained(tmp_path)
    values = load_file(tmp_path / "model.safetensors")
    for name, parameter in filled("lfm2", tmp_path).named_parameters():
        assert values[name].dtype == dtype
        assert torch.equal(parameter, values[name].float())


def test_a_tied_output_layer_that_is_written_out_once_more_is_no_matter(tmp_path):
    stock("lfm2").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": embedding.clone()}, tmp_path / "model.safetensors")
    assert torch.equal(filled("lfm2", tmp_path).get_output_embeddings().weight, embedding)


def test_an_output_layer_of_its_own_is_trained_as_such(tmp_path):
    theirs = stock("qwen2")
    theirs.save_pretrained(tmp_path)
    ours = filled("qwen2", tmp_path).get_output_embeddings().weight
    assert torch.equal(ours, theirs.lm_head.weight)
    assert not torch.equal(ours, theirs.model.embed_tokens.weight)


def test_a_tensor_that_the_model_has_no_place_for_is_refused(tmp_path):
    stock("lfm2").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"model.layers.9.more": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor model\.layers\.9\.more does not belong"):
        filled("lfm2", tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_is_built_without_memory_for_its_parameters(architecture):
    model = loading.build(small_config(architecture, VOCAB), "bfloat16")
    assert all(p.is_meta and p.dtype == torch.float32 for p in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not torch.nn.Linear(2, 2).weight.is_meta  # built as ever, outside


def test_random_weights_are_those_of_the_seed():
    one, same, other = (filled("lfm2", None, init="random", seed=s) for s in (1, 1, 2))
    weights = [model.embedding.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_hub_id_is_found_in_the_cache(init_dir, tmp_path, monkeypatch):
    """As the hub's client lays it out."""
    repository = tmp_path / "models--maker--tiny"
    shutil.copytree(init_dir, repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = loading.find_model(ModelConfig(path="maker/tiny"))
    assert found == repository / "snapshots" / "abc123"
    assert loading.load_config(found).model_type == "lfm2"
    with pytest.raises(InputError, match="maker/other is no local directory"):
        loading.find_model(ModelConfig(path="maker/other"))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json in it"):
        loading.find_model(ModelConfig(path=str(tmp_path)))


def test_a_tokenizer_without_its_fast_file_is_refused(tmp_path, monkeypatch):
    slow = SimpleNamespace(is_fast=False)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda path: slow)
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        loading.load_tokenizer(tmp_path)
