"""What `inspect` says of a checkpoint, against the loaded model, its cache, and `transformers`."""

import json
import math
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hala_engine import Engine, EngineConfig
from hala_engine.batch import CacheSpec
from hala_engine.cache import Cache
from hala_engine.inspection import inspect_model
from hala_engine.inspection.measure import SHORT
from hala_engine.models.registry import model_layout
from tests.engine.checkpoints import ARCHITECTURES, rewrite_config, write_checkpoint

GOLDENS = Path(__file__).parents[1] / "data" / "llmcompressor"
FP8 = ("fp8_static", "fp8_dynamic", "fp8_block", "fp8_groups")
SETTINGS = {
    "lfm2": {"conv_L_cache": 4},
    "cohere2": {"num_hidden_layers": 7},  # 2 full, 5 sliding: groups of unlike size
    "gemma2": {"tie_word_embeddings": False, "shard_size": "60KB"},
    "qwen2": {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 3},
    "llama": {"max_position_embeddings": 4096},
}
FLOAT32 = EngineConfig(device="cpu", dtype="float32", max_batch_size=6, max_batched_tokens=48)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory):
    """Directory and oracle."""
    directory = tmp_path_factory.mktemp(request.param)
    return directory, write_checkpoint(directory, request.param, **SETTINGS[request.param])


def tensor_bytes(root: torch.nn.Module) -> int:
    """Of every tensor that the model's modules and their helpers hold, each memory once."""
    seen: dict[int, int] = {}

    def visit(value) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif isinstance(value, torch.nn.Module) or type(value).__module__.startswith("hala_"):
            visit(vars(value))

    visit(root)
    return sum(seen.values())


def test_parameters_are_those_that_transformers_counts(model):
    directory, oracle = model
    found = inspect_model(directory, config=FLOAT32)
    assert found.parameters == oracle.num_parameters()
    assert found.embedding == oracle.get_input_embeddings().weight.numel()
    tied = oracle.config.tie_word_embeddings
    assert found.output == (0 if tied else oracle.lm_head.weight.numel())
    assert sum(found.stored.values()) == found.parameters and list(found.stored) == ["F32"]
    files = list(directory.glob("*.safetensors"))
    assert found.files == len(files)
    assert found.disk_bytes == sum(file.stat().st_size for file in files)
    assert found.context == oracle.config.max_position_embeddings


def test_layers_are_counted_by_kind(model):
    directory, oracle = model
    found = inspect_model(directory, config=FLOAT32).layers
    kinds = getattr(oracle.config, "layer_types", None) or ["full_attention"] * 5
    assert {kind.kind: kind.count for kind in found} == {
        name.removesuffix("_attention"): kinds.count(name) for name in set(kinds)
    }
    for kind in found:
        assert kind.window == (oracle.config.sliding_window if kind.kind == "sliding" else None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loaded_bytes_are_those_of_the_loaded_model(model, dtype, monkeypatch):
    directory, _ = model
    # oneDNN's packed weights do not tell their size.
    monkeypatch.setattr("hala_engine.layers.linear.can_pack", lambda weight: False)
    config = EngineConfig(device="cpu", dtype=dtype)
    held = tensor_bytes(Engine(directory, config=config).model)
    # Beside the weights a model holds its rotary frequencies and scales of an FP8 cache.
    assert 0 <= held - inspect_model(directory, config=config).loaded_bytes < 600


@pytest.mark.parametrize("name", FP8)
@pytest.mark.parametrize("keeps_fp8", [False, True])
def test_fp8_stays_fp8_only_where_it_is_multiplied(name, keeps_fp8, monkeypatch):
    for module in ("engine", "inspection.measure"):
        monkeypatch.setattr(f"hala_engine.{module}.multiplies_fp8", lambda device: keeps_fp8)
    config = EngineConfig(device="cpu", dtype="float32")
    found = inspect_model(GOLDENS / name, config=config)
    held = tensor_bytes(Engine(GOLDENS / name, config=config).model)
    assert found.keeps_fp8 is keeps_fp8
    assert 0 <= held - found.loaded_bytes < 600
    # Less than the 4 bytes a parameter of a model without FP8, or just that.
    assert (found.loaded_bytes < 4 * found.parameters) is keeps_fp8


@pytest.mark.parametrize("name", FP8)
def test_quantized_layers_are_those_with_fp8_weights(name):
    found = inspect_model(GOLDENS / name, config=FLOAT32)
    files = (GOLDENS / name).glob("*.safetensors")
    tensors = {key: tensor for file in files for key, tensor in load_file(file).items()}
    fp8 = {key for key, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn}
    matrices = {
        key
        for key, tensor in tensors.items()
        if key.endswith(".weight") and tensor.dim() == 2 and "embed_tokens" not in key
    }
    assert sum(found.quantization.layers.values()) == len(fp8)
    left = {f"{name}.weight" for name in found.quantization.left}
    assert left == matrices - fp8
    assert found.stored["F8_E4M3"] == sum(tensors[key].numel() for key in fp8)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
def test_a_sequence_takes_the_bytes_of_its_pages_and_states(model, kv_cache_dtype):
    """Of a real cache, filled in chunks as the engine does."""
    directory, _ = model
    chunk = 47
    config = EngineConfig(device="cpu", dtype="float32", max_batched_tokens=chunk)
    cost = inspect_model(directory, config=config).cache[kv_cache_dtype]
    spec = Engine(directory, config=config).model.cache_spec
    windows = sum(group.window is not None for group in spec.groups)
    for sequence in cost.sequences:
        cache = small_cache(spec, sequence.tokens, kv_cache_dtype)
        page = page_bytes(cache)
        states = sum(t[0].nbytes for t in cache.tensors.conv_states)
        assert cost.state_bytes == states
        most = most_pages(cache, sequence.tokens, chunk)
        # Where a window's first page begins depends on where chunks begin: there one may be less.
        assert 0 <= sequence.bytes - most * page - states <= windows * page
        per_token = cost.full_bytes_per_token + sum(cost.window_bytes_per_token.values())
        assert per_token * cache.page_size == page * len(spec.groups)


def small_cache(spec: CacheSpec, tokens: int, kv_cache_dtype: str) -> Cache:
    """With room for one sequence."""
    return Cache(
        spec,
        num_pages=len(spec.groups) * -(-tokens // 16),
        page_size=16,
        max_sequences=1,
        max_model_len=tokens,
        dtype=torch.float32,
        kv_dtype=torch.float8_e4m3fn if kv_cache_dtype == "fp8" else torch.float32,
        device=torch.device("cpu"),
    )


def page_bytes(cache: Cache) -> int:
    """Of one page in all the pools."""
    pools = {t.data_ptr(): t for layer in cache.tensors.kv for t in (layer.k, layer.v)}
    return sum(t[0].nbytes for t in pools.values())


def most_pages(cache: Cache, tokens: int, chunk: int) -> int:
    """That a sequence of `tokens` holds at once; the last of its chunks is a whole one."""
    slot, most = cache.open_slot(), 0
    for end in range(tokens % chunk, tokens + 1, chunk):
        assert cache.grow(slot, end)
        most = max(most, cache.num_pages - cache.free_pages)
        cache.slide(np.array([slot]), np.array([end]))
    return most


def test_so_many_sequences_fit(model, monkeypatch):
    directory, _ = model
    free = 3_000_000
    for name in ("engine", "inspection.measure"):
        monkeypatch.setattr(f"hala_engine.{name}.available_memory", lambda device: free)
    found = inspect_model(directory, config=FLOAT32)
    engine_free = free - found.loaded_bytes
    monkeypatch.setattr("hala_engine.engine.available_memory", lambda device: engine_free)
    engine = Engine(directory, config=FLOAT32)
    cost = found.cache["auto"]
    assert cost.max_model_len == engine.max_model_len
    spec, cache = engine.model.cache_spec, engine.cache
    page = spec.page_bytes(16, 4)
    fixed = page + FLOAT32.max_snapshots * cost.state_bytes
    for sequence in cost.sequences:
        budget = int(0.8 * engine_free) - fixed
        assert sequence.fit * sequence.bytes <= budget < (sequence.fit + 1) * sequence.bytes
        assert sequence.run <= sequence.fit
        held = spec.pages(sequence.tokens, 16, 48)
        assert sequence.run == min(6, sequence.fit, cache.num_pages // held)


def test_what_does_not_fit_is_no_error(model, monkeypatch):
    directory, _ = model
    monkeypatch.setattr("hala_engine.inspection.measure.available_memory", lambda device: 1000)
    found = inspect_model(directory, config=FLOAT32)
    assert [c.fit for c in found.cache["auto"].sequences] == [0] * len(
        found.cache["auto"].sequences
    )
    assert found.cache["auto"].max_model_len == 0


def test_tables_and_json_say_the_same(command, tmp_path):
    write_checkpoint(tmp_path, "cohere2", max_position_embeddings=4096)
    table = command("inspect", tmp_path, "--device", "cpu", "--max-batch-size", "5")
    done = command("inspect", tmp_path, "--device", "cpu", "--max-batch-size", "5", "--json")
    assert (table.code, table.stderr, done.code, done.stderr) == (0, "", 0, "")
    found = json.loads(done.stdout)
    assert found["architecture"] == "cohere2" and found["max_batch_size"] == 5
    assert found["layers"][0] == {"kind": "sliding", "count": 4, "window": 13}
    assert [s["tokens"] for s in found["cache"]["fp8"]["sequences"]] == [SHORT, 4096]
    assert found["cache"]["auto"]["sequences"][0]["run"] == 5
    for text in ("cohere2", "4 sliding window of 13", f"{found['parameters']:,}", "so many fit"):
        assert text in table.stdout


def test_fp8_on_the_cpu_is_said_to_be_dequantized(command):
    done = command("inspect", GOLDENS / "fp8_dynamic", "--device", "cpu")
    assert "FP8 is de-quantized there" in done.stdout
    assert "inputs by token" in done.stdout


def test_the_shipped_model_by_its_name(command):
    done = command("inspect", "hala-mini-en-ar", "--json")
    assert done.code == 0
    assert json.loads(done.stdout)["parameters"] == 5_445_760


def test_bad_checkpoints_and_flags_are_one_line_and_exit_code_2(command, tmp_path):
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.feed_forward.w1.weight"] = torch.ones(3, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    done = command("inspect", tmp_path)
    assert done.code == 2
    assert "model.layers.1.feed_forward.w1.weight has shape [3, 4]" in done.error
    rewrite_config(tmp_path, model_type="mamba")
    assert "model_type 'mamba' is not supported" in command("inspect", tmp_path).error
    assert "no model directory at nowhere" in command("inspect", "nowhere").error
    done = command("inspect", "hala-mini-en-ar", "--max-batch-size", "0")
    assert done.code == 2 and "max_batch_size" in done.error
    assert command("inspect", "hala-mini-en-ar", "--dtype", "int4").code == 2


LARGE = {
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 60,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def write_hollow(directory: Path, config: dict, shard_bytes: int) -> int:
    """A checkpoint whose files have headers and holes for the rest; returns its size."""
    (directory / "config.json").write_text(json.dumps(config))
    shards: list[dict] = [{}]
    for name, shape in model_layout(config, directory).tensors.items():
        begin = max((e["data_offsets"][1] for e in shards[-1].values()), default=0)
        if begin > shard_bytes:
            shards.append({})
            begin = 0
        end = begin + 2 * math.prod(shape)
        shards[-1][name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    for i, header in enumerate(shards):
        text = json.dumps(header).encode()
        with (directory / f"model-{i:03d}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(file.tell() + max(e["data_offsets"][1] for e in header.values()))
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def test_a_checkpoint_of_100_gigabytes_is_inspected_at_once(tmp_path):
    size = write_hollow(tmp_path, LARGE, shard_bytes=1 << 30)
    assert size > 100e9
    command = [sys.executable, "-m", "hala_engine.cli", "inspect", str(tmp_path), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["disk_bytes"] == size and found["files"] > 30
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
