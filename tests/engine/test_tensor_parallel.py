"""Tensor parallelism: two processes that each read their share of a checkpoint compute what one
process computes, and read no more than that share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from all_logits import AllLogits
from checkpoints import random_prompts, rewrite_config, write_checkpoint
from fp8_checkpoints import LAYOUTS, Layout, compressed, group, quantize
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing

from hala_engine.cache import Cache
from hala_engine.errors import InputError
from hala_engine.layers.attention import Attention
from hala_engine.models.registry import load_model
from hala_engine.prefix import SharedPrefixes
from hala_engine.sampling import SamplingParams
from hala_engine.scheduler import Scheduler
from hala_engine.sequence import Sequence
from hala_engine.weights.checkpoint import Checkpoint
from hala_engine.weights.source import Placement

RANKS = 2
CPU = torch.device("cpu")
ALONE = Placement(torch.float32, CPU)

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "head_dim": 128,
    "attention_bias": True,
}
"""Shares of each matrix end where blocks of 128 end."""

STATIC = group(
    {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True},
    {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True},
    "Linear",
)


@dataclass(frozen=True)
class Case:
    architecture: str
    settings: dict = field(default_factory=dict)
    layout: Layout | None = None  # of the FP8 checkpoint


CASES = {
    "llama": Case("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": Case("qwen2", {"tie_word_embeddings": False}),
    "gemma2": Case("gemma2", {"attention_bias": True}),
    "cohere2": Case("cohere2", {"attention_bias": True, "num_hidden_layers": 4}),
    "lfm2": Case("lfm2", {"conv_bias": True}),
    "channels": Case("llama", WIDE, LAYOUTS["channels without a second dimension"]),
    "blocks": Case("llama", WIDE, LAYOUTS["deepseek"]),
    "tensors": Case(
        "llama",
        WIDE,
        Layout(
            compressed({"group_0": STATIC}),
            by="tensor",
            scale="weight_scale",
            shape=(1,),
            input_scale="input_scale",
            input_shape=(1,),
        ),
    ),
}
FP8 = [name for name, case in CASES.items() if case.layout]


def write_case(directory: Path, case: Case) -> None:
    write_checkpoint(directory, case.architecture, **case.settings)
    if case.layout is None:
        return
    rewrite_config(directory, quantization_config=case.layout.config)
    tensors = load_file(directory / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        tensors[name], scale = quantize(tensors[name], case.layout)
        shape = scale.shape if case.layout.shape is None else case.layout.shape
        tensors[f"{module}.{case.layout.scale}"] = scale.reshape(shape)
        if case.layout.input_scale:
            tensors[f"{module}.{case.layout.input_scale}"] = torch.full((1,), 0.05)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def logits(directory: Path, place: Placement) -> torch.Tensor:
    """[positions, vocab] of a few prompts and their greedy output, in mixed batches."""
    model = load_model(directory, place)
    heads = next(m.shape[1] for m in model.modules() if isinstance(m, Attention))
    cache = Cache(
        replace(model.cache_spec, kv_heads=heads),
        num_pages=200,
        page_size=8,
        max_sequences=3,
        max_model_len=128,
        dtype=place.dtype,
        device=place.device,
        max_snapshots=2,
    )
    runner = AllLogits(model, cache, place.device)
    scheduler = Scheduler(cache, SharedPrefixes(cache, 2), max_batched_tokens=37)
    shared = random_prompts(1, seed=1, longest=30)[0] * 11
    for i, rest in enumerate(random_prompts(6, seed=2, longest=40)):
        params = SamplingParams(max_new_tokens=4)
        prompt = [*shared, *rest]
        scheduler.add(Sequence(i, prompt, params, 0, len(prompt) + 4, frozenset()))
    while scheduler.has_work:
        schedule = scheduler.schedule()
        scheduler.update(schedule, runner.step(schedule))
    assert scheduler.shared_tokens
    return torch.stack([row for of in runner.seen.values() for _, row in sorted(of.items())])


def run_rank(rank: int, root: Path) -> None:
    """What a process of two does: each case, and FP8 ones with FP8 products, too."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=RANKS
    )
    place = replace(ALONE, rank=rank, ranks=RANKS)
    results = {name: logits(root / name, place) for name in CASES}
    results |= {f"{name}.fp8": logits(root / name, replace(place, fp8=True)) for name in FP8}
    save_file(results, root / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parallel")
    for name, case in CASES.items():
        write_case(root / name, case)
    return root


@pytest.fixture(scope="module")
def together(root) -> list[dict[str, torch.Tensor]]:
    """What each rank computed."""
    multiprocessing.spawn(run_rank, (root,), nprocs=RANKS)
    return [load_file(root / f"{rank}.safetensors") for rank in range(RANKS)]


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, in parts of the largest logit."""
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_computes(root, together, name):
    expected = logits(root / name, ALONE)
    for rank in together:
        assert error(rank[name], expected) < 1e-5


@pytest.mark.parametrize("name", FP8)
def test_fp8_products_of_shares_are_as_exact_as_of_the_whole(root, together, name):
    """Not equal: a scale for each token is that of a share of its columns."""
    exact = logits(root / name, ALONE)
    whole = error(logits(root / name, replace(ALONE, fp8=True)), exact)
    assert whole > 1e-4  # the products were those of FP8
    for rank in together:
        assert 1e-4 < error(rank[f"{name}.fp8"], exact) < 1.5 * whole
    assert torch.equal(together[0][f"{name}.fp8"], together[1][f"{name}.fp8"])


SPLIT_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "w1", "w3")
SPLIT_COLUMNS = ("o_proj", "self_attn.out_proj", "down_proj", "w2")


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_rank_reads_its_share_only(root, name, fp8, monkeypatch):
    """Of every matrix that is shared out, half the bytes, and each of them once."""
    reads: list[dict[str, torch.Tensor]] = []

    def spy(self, name, read=Checkpoint.read, **part):
        assert name not in reads[-1], "read twice"
        reads[-1][name] = tensor = read(self, name, **part)
        return tensor

    monkeypatch.setattr(Checkpoint, "read", spy)
    for rank in range(RANKS):
        reads.append({})
        load_model(root / name, replace(ALONE, rank=rank, ranks=RANKS, fp8=fp8))
    for tensor_name, whole in load_file(root / name / "model.safetensors").items():
        if tensor_name not in reads[0]:
            continue
        module, _, kind = tensor_name.rpartition(".")
        parts = [of_rank[tensor_name] for of_rank in reads]
        if kind == "weight" and module.endswith(SPLIT_COLUMNS):
            joined = torch.cat([part.view(_bits(part)) for part in parts], dim=1)
        elif kind in ("weight", "bias") and module.endswith(SPLIT_ROWS):
            joined = torch.cat([part.view(_bits(part)) for part in parts])
        else:
            assert all(torch.equal(part, whole) for part in parts), tensor_name
            continue
        assert torch.equal(joined, whole.view(_bits(whole))), tensor_name
        assert parts[0].nbytes == parts[1].nbytes == whole.nbytes // 2
    unread = set(load_file(root / name / "model.safetensors")) - set(reads[0])
    assert all(tensor_name.endswith("input_scale") for tensor_name in unread)
    assert not (unread and fp8)


def _bits(tensor: torch.Tensor) -> torch.dtype:
    return torch.uint8 if tensor.itemsize == 1 else tensor.dtype


def narrow(directory: Path) -> None:
    """Blocks of 128 rows, of which two KV heads of 64 share one."""
    write_case(directory, Case("llama", WIDE | {"head_dim": 64}, LAYOUTS["deepseek"]))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda d: write_case(d, Case("llama", {"num_key_value_heads": 1})),
            "--tensor-parallel 2 does not divide the 1 KV heads",
        ),
        (
            lambda d: write_case(d, Case("llama", {"intermediate_size": 97})),
            "--tensor-parallel 2 does not divide the 97 rows or columns of "
            "model.layers.0.mlp.gate_proj",
        ),
        (
            narrow,
            "--tensor-parallel 2 cuts model.layers.0.self_attn.k_proj.weight inside a block of 128",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_said(tmp_path, make: Callable[[Path], None], message: str):
    make(tmp_path)
    for rank in range(RANKS):
        with pytest.raises(InputError, match=message):
            load_model(tmp_path, replace(ALONE, rank=rank, ranks=RANKS))


def test_a_share_may_end_in_a_ragged_block(tmp_path):
    """The last block of a matrix may be cut short by the matrix, not by a rank."""
    case = Case("llama", WIDE | {"hidden_size": 200}, LAYOUTS["deepseek"])
    write_case(tmp_path, case)
    for rank in range(RANKS):
        load_model(tmp_path, replace(ALONE, rank=rank, ranks=RANKS, fp8=True))
    shutil.rmtree(tmp_path)
