"""The memory estimate: its counts against real tensors, and the figures in the recipes' heads."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from bench.architectures import gemma2_9b, lfm2_1b2
from hala_kernels.backend import forced
from hala_trainer.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
)
from hala_trainer.distributed import processes
from hala_trainer.model import attention
from hala_trainer.model.loading import build, fill
from hala_trainer.model.sharding import shard
from hala_trainer.optim import build_optimizer
from hala_trainer.planning import memory
from hala_trainer.planning.live_bytes import LiveBytes, footprint
from hala_trainer.planning.memory import Group, estimate, groups
from hala_trainer.recipe import load_recipe
from tests.trainer.tiny_configs import OWN, SIZES

RECIPES = Path("trainer/recipes")
R, L = 2, 24


def tiny(kind: str, **changes):
    return AutoConfig.for_model(kind, **(SIZES | OWN[kind] | changes))


def recipe(**train) -> Recipe:
    settings = {"global_batch": 2 * R, "micro_batch": R} | train
    return Recipe(
        ModelConfig(),
        DataConfig(seq_len=L),
        OptimConfig(),
        TrainConfig(**settings),
        CheckpointConfig(),
        LogConfig(),
    )


def real(kind: str):
    """A model with values, in float32, on the CPU."""
    config = tiny(kind)
    model = build(config, "float32")
    fill(model, Path(), ModelConfig(init="random"), torch.device("cpu"))
    return model


def calls_of(model, device: str) -> list[tuple]:
    """What each block of `model` is given for R packed rows of three documents."""
    calls = []
    hooks = [
        block.register_forward_pre_hook(
            lambda block, args, kwargs: calls.append((args[0].detach(), args[1:], kwargs)),
            with_kwargs=True,
        )
        for block in model.blocks
    ]
    documents = (torch.arange(L) // 10).int().repeat(R, 1).to(device)
    with torch.no_grad():
        model.model(
            inputs_embeds=torch.ones(R, L, 32, device=device),
            position_ids=torch.arange(L, device=device).repeat(R, 1),
            attention_mask=attention.masks(documents, model.config),
            use_cache=False,
            **({"seq_idx": documents} if model.config.model_type == "lfm2" else {}),
        )
    for hook in hooks:
        hook.remove()
    return calls


def saved_bytes(block, hidden, args, kwargs) -> int:
    """Bytes of the storages that autograd itself says it saves, the parameters' not."""
    given = {p.untyped_storage().data_ptr() for p in block.parameters()}
    tensors = torch.utils._pytree.tree_leaves((args, kwargs))
    given |= {t.untyped_storage().data_ptr() for t in tensors if isinstance(t, torch.Tensor)}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(hidden.clone().requires_grad_(), *args, **kwargs)  # noqa: F841
    return sum(saved.values())


@pytest.mark.parametrize("kind", OWN)
def test_bytes_kept_are_those_that_autograd_saves(kind):
    model = real(kind)
    for block, call in zip(model.blocks, calls_of(model, "cpu"), strict=True):
        kept = footprint(block, *call, mode="none", compiled=False).kept
        assert kept == saved_bytes(block, *call) > 0


@pytest.mark.parametrize("kind", OWN)
def test_the_meta_device_counts_what_real_tensors_take(kind):
    """With the same operations on both, which eager attention and the reference kernels give."""
    counts = []
    for device in ("cpu", "meta"):
        model = real(kind).to(device)
        with forced("reference"):
            calls = calls_of(model, device)
            model.config._attn_implementation = "eager"
            for _, _, kwargs in calls:
                kwargs["attention_mask"] = None
            counts.append(
                [
                    footprint(block, *call, mode=mode, compiled=False)
                    for block, call in zip(model.blocks, calls, strict=True)
                    for mode in ("none", "selective", "full")
                ]
            )
    assert counts[0] == counts[1]


def test_attention_keeps_its_inputs_its_result_and_a_number_a_query():
    """As a GPU's kernels do; [L, L] scores never exist."""
    model = build(tiny("qwen2"), "float32").to("meta")
    block = model.blocks[0].self_attn
    _, _, kwargs = calls_of(model, "meta")[0]
    with LiveBytes([*block.parameters(), *kwargs["position_embeddings"]]) as live:
        x = torch.empty(R, L, 32, device="meta", requires_grad=True)
        out = block(x, **kwargs)[0]
    # Of [R, L, ...] float32: x, out; q, k, v; q and k after RoPE; the result; log-sum-exps.
    most = 32 + 32 + (32 + 16 + 16) + (32 + 16) + 32 + 4
    rotating = 3 * (32 + 16)  # halves turned and multiplied
    assert out.grad_fn is not None
    assert live.now <= 4 * R * L * (most + rotating)


@pytest.mark.parametrize("kind", ["lfm2", "gemma2"])
def test_recomputing_more_keeps_less_down_to_the_input(kind):
    model = build(tiny(kind), "bfloat16")
    kept = {
        mode: [f.kept for f in memory.activations(model, recipe(recompute=mode))[1]]
        for mode in ("none", "selective", "full")
    }
    for none, selective, full in zip(*kept.values(), strict=True):
        assert none > selective > full == 2 * R * L * 32


def test_blocks_are_counted_in_the_dtype_they_compute_in():
    half, single = (
        memory.activations(build(tiny("lfm2"), compute), recipe())[1][0].kept
        for compute in ("bfloat16", "float32")
    )
    assert 0.5 * single <= half < 0.75 * single


def test_a_compiled_block_keeps_less():
    model = build(tiny("qwen2"), "bfloat16")
    eager = memory.activations(model, recipe())[1][0]
    compiled = memory.activations(model, recipe(compile=True))[1][0]
    products = 2 * R * L * (32 + 16 + 16 + 2 * 48)  # q, k, v, gate, up: no partition does without
    assert products < compiled.kept < eager.kept


def test_counting_leaves_the_model_as_it_was():
    model = build(tiny("lfm2"), "bfloat16")
    estimate(model, recipe(recompute="full"), 1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any("forward" in vars(block) for block in model.blocks)
    assert {p.grad for p in model.parameters()} == {None}


def test_weights_and_moments_take_what_the_real_ones_do():
    with processes("cpu") as group:
        model = build(tiny("lfm2"), "bfloat16")
        expected = estimate(model, recipe(), 1).parts[memory.STATE]
        shard(model, group.mesh, recipe().train)
        fill(model, Path(), ModelConfig(init="random"), torch.device("cpu"))
        parameters = dict(model.named_parameters())
        optimizer = build_optimizer(parameters, OptimConfig())
        for p in parameters.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        tensors = [p.to_local() for p in parameters.values()]
        for state in optimizer.state.values():
            tensors += [state["exp_avg"].to_local(), state["exp_avg_sq"].to_local()]
        assert sum(t.nbytes for t in tensors) == expected


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_uneven_rows_are_filled_up_as_fsdp_does(world):
    tensors = [torch.empty(7, 5), torch.empty(16), torch.empty(2, 1, 3)]
    chunks = [torch.chunk(t, world)[0].numel() for t in tensors]
    group = Group.of(tensors, world)
    assert group.own == sum(chunks) and group.whole == world * sum(chunks)


def test_all_parameters_are_in_one_group():
    model = build(tiny("qwen2", tie_word_embeddings=False), "bfloat16")
    blocks, root = groups(model, 1)
    assert root.own == 2 * 96 * 32 + 32
    assert sum(b.own for b in blocks) + root.own == sum(p.numel() for p in model.parameters())


def test_more_processes_hold_less_state_each():
    model = build(tiny("lfm2"), "bfloat16")
    alone, of_eight = (
        estimate(model, recipe(global_batch=16 * R), n).parts[memory.STATE] for n in (1, 8)
    )
    assert of_eight == pytest.approx(alone / 8, rel=0.1)


def test_weights_that_stay_gathered_are_counted():
    model = build(tiny("gemma2"), "bfloat16")
    big = recipe(global_batch=64, micro_batch=16)  # so large that the loss is the fullest moment
    freed, stay = (
        estimate(model, replace(big, train=replace(big.train, reshard=reshard)), 2)
        for reshard in (True, False)
    )
    inside = 2 * sum(p.numel() for p in model.blocks.parameters())
    assert stay.parts[memory.BLOCKS] == pytest.approx(inside, rel=0.01)
    assert freed.parts[memory.BLOCKS] < inside


def test_activations_grow_with_the_rows():
    model = build(tiny("lfm2"), "bfloat16")
    small, large = (
        memory.activations(model, recipe(global_batch=n, micro_batch=n)) for n in (2, 4)
    )
    assert large[0] == 2 * small[0]
    for one, two in zip(small[1], large[1], strict=True):
        assert two.kept == pytest.approx(2 * one.kept, rel=1e-3)


def test_logits_are_held_a_chunk_at_a_time():
    """The loss of a large vocabulary takes at most the chunk that the kernel allows."""
    model = build(tiny("qwen2", vocab_size=100_000), "bfloat16")
    r = recipe(global_batch=512, micro_batch=512)
    r = replace(r, data=replace(r.data, seq_len=512))
    tokens, cast = 512 * 512, 2 * 100_000 * 32
    assert 0.5 * 2**30 < memory._loss_bytes(model, r) - cast - tokens * 32 * 6 <= 2**30


SMALLER = {
    "hala-350m": {"hidden_size": 1024, "intermediate_size": 6656, "num_attention_heads": 16},
    "hala-700m": {"hidden_size": 1536, "intermediate_size": 10240, "num_attention_heads": 24},
}
DIMENSIONS = {name: lfm2_1b2() | sizes for name, sizes in SMALLER.items()}
DIMENSIONS |= {"hala-1.2b": lfm2_1b2(), "translator-1.2b": lfm2_1b2(), "hala-9b": gemma2_9b()}
PARAMETERS = {"hala-350m": 354.5e6, "hala-700m": 742e6, "hala-1.2b": 1170e6, "hala-9b": 9242e6}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_the_recipe_says_the_memory_it_takes(name):
    """A few seconds each: torch.compile's tracer divides the blocks."""
    text = (RECIPES / f"{name}.toml").read_text()
    stated = float(re.search(r"^# Memory on 8 x 80 GB: ([\d.]+) GB a GPU", text, re.M)[1])
    raw = dict(DIMENSIONS[name])
    model = build(AutoConfig.for_model(raw.pop("model_type"), **raw), "bfloat16")
    size = sum(p.numel() for p in model.parameters())
    assert size == pytest.approx(PARAMETERS.get(name, 1170e6), rel=0.001)
    total = estimate(model, load_recipe(RECIPES / f"{name}.toml", []), 8).total / 1e9
    assert total < 80
    assert stated == pytest.approx(total, rel=0.03)
