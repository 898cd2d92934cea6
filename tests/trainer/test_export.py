"""The exported model: what transformers and the engine load, the same from any number of ranks."""

import itertools
import json
import resource

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Cohere2Config,
    Gemma2Config,
    GenerationConfig,
    Qwen2Config,
)

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.errors import InputError, TrainError
from hala_trainer.saving import export as module
from hala_trainer.saving.export import base_generation, end_of_turn, export, generation_of
from tests.trainer.worker_ranks import run_ranks, sharded_model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def model(init_dir):
    return sharded_model(init_dir)


def write(folder, model, tokenizer, dtype="float32", **options):
    export(folder, dict(model.named_parameters()), model.config, tokenizer, dtype, **options)
    return folder


def full_weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().full_tensor() for name, p in model.named_parameters()}


def read_json(path) -> dict:
    return json.loads(path.read_text())


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_transformers_loads_the_very_weights_in_the_dtype_asked_for(
    tmp_path, model, tokenizer, dtype
):
    folder = write(tmp_path / "final", model, tokenizer, dtype)
    kind = getattr(torch, dtype)
    loaded, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert (loaded.dtype, type(loaded).__name__) == (kind, "Lfm2ForCausalLM")
    held = dict(loaded.named_parameters())
    for name, weight in full_weights(model).items():
        assert torch.equal(held[name], weight.to(kind)), name
    assert read_json(folder / "config.json")["dtype"] == dtype


def test_the_folder_holds_what_a_model_needs_and_nothing_else(tmp_path, model, tokenizer):
    write(tmp_path / "final", model, tokenizer)
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_engine_answers_as_transformers_does(tmp_path, model, tokenizer):
    folder = write(tmp_path / "final", model, tokenizer)
    chat = [{"role": "user", "content": "abc"}]
    engine = Engine(folder, config=EngineConfig(device="cpu", dtype="float32"))
    [output] = engine.generate([chat], SamplingParams(max_new_tokens=12, ignore_eos=True))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    answer = loaded.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    free = loaded.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert output.token_ids == free[0, ids.shape[1] :].tolist()
    assert answer.shape == free.shape


@pytest.mark.parametrize("kind", [Gemma2Config, Cohere2Config, Qwen2Config])
@pytest.mark.parametrize("tied", [True, False])
def test_every_architecture_round_trips_with_tied_weights_once(tmp_path, tokenizer, kind, tied):
    sizes = SIZES | ({"head_dim": 8} if kind is Gemma2Config else {})
    config = kind(**sizes, vocab_size=len(tokenizer), tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    folder = write(tmp_path / "final", model, tokenizer)
    names_written = load_file(folder / "model.safetensors").keys()
    assert ("lm_head.weight" in names_written) != tied
    loaded, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_a_tensor_of_two_names_is_written_under_the_first(tmp_path, model, tokenizer):
    parameters = dict(model.named_parameters())
    parameters["lm_head.weight"] = parameters["model.embed_tokens.weight"]
    export(tmp_path / "final", parameters, model.config, tokenizer, "float32")
    held = load_file(tmp_path / "final" / "model.safetensors")
    assert held.keys() == dict(model.named_parameters()).keys()


def test_the_configuration_is_that_of_the_model_without_the_trainers_marks(
    tmp_path, model, tokenizer, init_dir
):
    model.config._attn_implementation = "hala_packed"
    model.config.architectures = None
    written = read_json(write(tmp_path / "final", model, tokenizer) / "config.json")
    assert written == read_json(init_dir / "config.json") | {"dtype": "float32"}


def test_the_tokenizer_keeps_its_tokens_and_its_template(tmp_path, model, tokenizer):
    folder = write(tmp_path / "final", model, tokenizer)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map


def test_weights_past_the_limit_of_a_file_go_into_several_with_an_index(
    tmp_path, model, tokenizer, monkeypatch
):
    monkeypatch.setattr(module, "SHARD_BYTES", 20_000)
    folder = write(tmp_path / "final", model, tokenizer)
    index = read_json(folder / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert files == [p.name for p in sorted(folder.glob("*.safetensors"))]
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    expected = full_weights(model)
    held = {name: t for file in files for name, t in load_file(folder / file).items()}
    assert held.keys() == index["weight_map"].keys() == expected.keys()
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)
        assert torch.equal(held[name], expected[name])
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    by_file = [list(load_file(folder / file).values()) for file in files]
    sizes = [sum(t.nbytes for t in tensors) for tensors in by_file]
    assert all(
        size <= 20_000 or len(tensors) == 1 for size, tensors in zip(sizes, by_file, strict=True)
    )
    assert all(a + b > 20_000 for a, b in itertools.pairwise(sizes))
    _, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())


def test_one_that_is_there_is_replaced_and_a_half_one_removed(tmp_path, model, tokenizer):
    folder = write(tmp_path / "final", model, tokenizer)
    (folder / "old").touch()
    (tmp_path / "final.partial").mkdir()
    (tmp_path / "final.partial" / "model.safetensors").touch()
    with torch.no_grad():
        model.get_parameter("model.embedding_norm.weight").fill_(3)
    write(folder, model, tokenizer)
    assert names(tmp_path) == ["final"]
    assert "old" not in names(folder)
    held = load_file(folder / "model.safetensors")
    assert held["model.embedding_norm.weight"].eq(3).all()


NORM = "model.layers.1.ffn_norm.weight"


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (70_000.0, "float16", "70000, which torch.float16 cannot hold; take another final_dtype"),
        (-70_000.0, "float16", "70000, which torch.float16 cannot hold; take another final_dtype"),
        (float("nan"), "bfloat16", "values that are not finite"),
        (float("-inf"), "float32", "values that are not finite"),
    ],
)
def test_a_value_that_cannot_be_written_names_its_tensor_and_leaves_the_old_model(
    tmp_path, model, tokenizer, value, dtype, reason
):
    folder = write(tmp_path / "final", model, tokenizer)
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.get_parameter(NORM)[3] = value
    with pytest.raises(TrainError) as failed:
        write(folder, model, tokenizer, dtype)
    assert str(failed.value) == f"the model cannot be exported: {NORM} holds {reason}"
    assert names(tmp_path) == ["final"]
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("limit", [0, 2_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_the_old_model(tmp_path, model, tokenizer, limit):
    folder = write(tmp_path / "final", model, tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        with pytest.raises(TrainError) as failed:
            write(folder, model, tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert str(failed.value).startswith(f"{folder}: cannot write the model (File too large")
    assert "\n" not in str(failed.value)
    assert names(tmp_path) == ["final"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, init_dir):
    root = tmp_path_factory.mktemp("two")
    return root, run_ranks("exports", root, init_dir)


@pytest.mark.parametrize(("name", "dtype"), [("whole", "bfloat16"), ("files", "float32")])
def test_two_ranks_write_the_bytes_that_one_writes(
    tmp_path, model, init_dir, by_two, monkeypatch, name, dtype
):
    tokenizer = AutoTokenizer.from_pretrained(init_dir)
    if name == "files":
        monkeypatch.setattr(module, "SHARD_BYTES", 20_000)
    mine, theirs = write(tmp_path / "final", model, tokenizer, dtype), by_two[0] / name
    assert names(mine) == names(theirs)
    for path in mine.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name


def test_no_rank_holds_more_than_one_whole_tensor(by_two):
    assert [found["most tensors at once"] for found in by_two[1]] == [1, 1]


def test_a_failure_of_the_writing_rank_reaches_all(by_two):
    root, ranks = by_two
    for found in ranks:
        assert found["full disk"] == f"{root}/full: cannot write the model (File too large)"
        assert "model.layers.2.self_attn.k_proj.weight holds" in found["overflow"]
        assert found["left"] == ["files", "whole"]


GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "<|im_end|>"),
        (GEMMA, "<end_of_turn>"),
        ("{% for m in messages %}{{ m['content'] }}<|c|>{% endfor %}<|b|>", "<|c|>"),
        ("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", None),
        ("", None),
    ],
)
def test_the_end_of_a_turn_is_the_token_that_the_template_writes_after_an_answer(
    init_dir, template, end
):
    tokenizer = AutoTokenizer.from_pretrained(init_dir)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    if template is not None:
        tokenizer.chat_template = template
    assert end_of_turn(tokenizer) == (tokenizer.convert_tokens_to_ids(end) if end else None)


@pytest.mark.parametrize("template", [None, GEMMA])
def test_the_end_of_a_turn_is_the_last_token_that_was_learnt(init_dir, template):
    tokenizer = AutoTokenizer.from_pretrained(init_dir)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    if template:
        tokenizer.chat_template = template
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    encoded = ChatRenderer(tokenizer).encode([("", turns)])
    assert encoded.ids[encoded.supervised][-1] == end_of_turn(tokenizer)


def test_without_settings_of_its_base_a_model_decodes_greedily_and_stops_at_a_turns_end(
    tmp_path, model, tokenizer
):
    folder = write(tmp_path / "final", model, tokenizer)
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.do_sample, settings.eos_token_id) == (False, 7)
    assert (settings.bos_token_id, settings.pad_token_id) == (1, 0)


def test_settings_of_the_base_model_are_kept_and_its_ends_joined_by_the_turns(
    tmp_path, model, tokenizer
):
    base = tmp_path / "base"
    base.mkdir()
    given = {"do_sample": True, "temperature": 0.3, "min_p": 0.15, "eos_token_id": [2, 7]}
    (base / "generation_config.json").write_text(json.dumps(given))
    folder = write(tmp_path / "final", model, tokenizer, generation=base_generation(base))
    written = read_json(folder / "generation_config.json")
    assert written.pop("transformers_version")
    assert written == given | {"eos_token_id": [7, 2]}


def test_ends_of_model_and_configuration_are_each_kept_once(init_dir, model):
    tokenizer = AutoTokenizer.from_pretrained(init_dir)
    model.config.eos_token_id = [2, 5]
    settings = GenerationConfig(eos_token_id=5)
    assert generation_of(settings, model.config, tokenizer)["eos_token_id"] == [7, 5, 2]
    tokenizer.chat_template = None
    model.config.eos_token_id = None
    assert generation_of(settings, model.config, tokenizer)["eos_token_id"] == 5


def test_a_base_without_settings_has_none_and_damaged_ones_are_refused(tmp_path):
    assert base_generation(tmp_path) is None
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match="unusable generation_config"):
        base_generation(tmp_path)
