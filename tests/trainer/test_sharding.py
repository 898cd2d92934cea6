"""Three processes share a model whose tensors no three can share evenly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from hala_trainer import evaluation
from hala_trainer.config import ModelConfig, TrainConfig
from hala_trainer.data.documents import Corpus, Documents
from hala_trainer.data.order import in_order
from hala_trainer.distributed import Processes
from hala_trainer.model import loading, sharding
from hala_trainer.model.packed import Inputs, PackedModel
from tests.trainer.conftest import tiny_config
from tests.trainer.forked_ranks import on_ranks

WORLD = 3
SEQ_LEN = 16
CPU = torch.device("cpu")
SMALLEST = "model.layers.2.self_attn.q_layernorm.weight"  # 2 numbers: the last rank has none
INNER = "model.layers.2.self_attn.q_proj.weight"


def config():
    made = tiny_config(65)
    made.num_attention_heads, made.num_key_value_heads = 16, 4
    made.initializer_range = 0.3
    return made


def held_out() -> Corpus:
    lengths = [9, 3, 5, 14, 2, 12, 3, 7, 16, 4]
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    supervised = rng.random(offsets[-1]) < 0.6
    supervised[offsets[:-1]] = False
    return Corpus(
        [Documents(rng.integers(8, 65, offsets[-1]).astype(np.uint16), supervised, offsets)]
    )


def sharded(p: Processes, folder, compute: str = "float32", **train) -> PackedModel:
    model = loading.build(config(), compute)
    sharding.shard(model, p.mesh, TrainConfig(**train))
    loading.fill(model, folder, ModelConfig(), p.device)
    return model


def loss_of(model: PackedModel, rank: int, world: int) -> torch.Tensor:
    return sum(
        model(Inputs.of(batch, CPU)) for batch in in_order(held_out(), 2, SEQ_LEN, 0, rank, world)
    )


def whole(parameters) -> dict[str, torch.Tensor]:
    return {name: t.detach().full_tensor() for name, t in parameters}


def all_sharded(model: PackedModel) -> bool:
    return all(isinstance(p, DTensor) for p in model.parameters())


def rank_work(p: Processes, folder) -> dict:
    found: dict[str, object] = {}
    model = sharded(p, folder)
    found["rows"] = {name: len(t.to_local()) for name, t in model.named_parameters()}
    found["values"] = whole(model.named_parameters())
    loss_of(model, p.rank, p.world).backward()
    found["gradients"] = whole((n, t.grad) for n, t in model.named_parameters())

    run = SimpleNamespace(model=model, processes=p, held_out=held_out())
    run.recipe = SimpleNamespace(
        train=SimpleNamespace(micro_batch=2), data=SimpleNamespace(seq_len=SEQ_LEN)
    )
    run.rows = SimpleNamespace(pad=0)
    found["eval loss"] = evaluation.evaluate(run)
    found["sharded after evaluation"] = all_sharded(model)

    half = sharded(p, folder, "bfloat16")
    dtypes = found["dtypes"] = {}
    inner, block = half.get_submodule(INNER.removesuffix(".weight")), half.blocks[2]
    inner.register_forward_pre_hook(lambda m, _: dtypes.update(block=m.weight.dtype))
    half.embedding.register_forward_pre_hook(lambda m, _: dtypes.update(root=m.weight.dtype))
    batch = next(in_order(held_out(), 2, SEQ_LEN, 0, p.rank, p.world))
    loss = half(Inputs.of(batch, CPU))
    found["sharded after forward"] = all(isinstance(t, DTensor) for t in block.parameters())
    loss.backward()
    gradient = dict(half.named_parameters())[INNER].grad.full_tensor()
    dtypes["master"], dtypes["gradient"] = inner.weight.dtype, gradient.dtype
    found["gradient"] = gradient
    alone = sharded(p, folder, "bfloat16", reshard=False)
    loss_of(alone, p.rank, p.world)
    found["kept after forward"] = not any(isinstance(t, DTensor) for t in alone.blocks.parameters())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config())
    model.save_pretrained(made, max_shard_size="40KB")
    assert len(list(made.glob("*.safetensors"))) >= 3
    return made


@pytest.fixture(scope="module")
def ranks(folder):
    return on_ranks(WORLD, rank_work, folder)


@pytest.fixture(scope="module")
def alone(folder) -> PackedModel:
    """The same model without FSDP, with the gradients of all documents."""
    model = loading.build(config(), "float32")
    loading.fill(model, folder, ModelConfig(), CPU)
    loss_of(model, 0, 1).backward()
    return model


def test_every_process_holds_its_rows_and_together_they_are_the_checkpoint(ranks, alone):
    expected = dict(alone.named_parameters())
    for name, parameter in expected.items():
        held = [rank["rows"][name] for rank in ranks]
        assert sum(held) == len(parameter)
        assert max(held) == -(-len(parameter) // WORLD)
        for rank in ranks:
            assert torch.equal(rank["values"][name], parameter.detach()), name
    assert [rank["rows"]["model.embed_tokens.weight"] for rank in ranks] == [22, 22, 21]
    assert [rank["rows"][SMALLEST] for rank in ranks] == [1, 1, 0]


def test_gradients_are_the_mean_of_the_processes(ranks, alone):
    for name, parameter in alone.named_parameters():
        ours = ranks[0]["gradients"][name] * WORLD
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_blocks_compute_in_bfloat16_and_all_else_is_float32(ranks):
    for rank in ranks:
        assert rank["dtypes"] == {
            "block": torch.bfloat16,
            "root": torch.float32,
            "master": torch.float32,
            "gradient": torch.float32,
        }


def test_gradients_are_summed_in_float32(ranks):
    """Of one backward pass, which in bfloat16 would leave only numbers that bfloat16 has."""
    gradient = ranks[0]["gradient"]
    assert (gradient != gradient.bfloat16().float()).float().mean() > 0.3


def test_gathered_weights_are_freed_after_a_forward_pass_unless_told_not_to(ranks):
    assert all(rank["sharded after forward"] for rank in ranks)
    assert all(rank["kept after forward"] for rank in ranks)


def test_evaluation_is_over_all_documents_and_leaves_nothing_gathered(ranks, alone):
    count = sum(int(b.supervised.sum()) for b in in_order(held_out(), 2, SEQ_LEN, 0))
    expected = loss_of(alone, 0, 1).item() / count
    for rank in ranks:
        assert rank["eval loss"] == pytest.approx(expected, rel=1e-5)
        assert rank["sharded after evaluation"]


def test_blocks_are_recomputed_and_compiled_as_the_recipe_says(monkeypatch):
    asked, compiled = [], []
    monkeypatch.setattr(sharding.recompute, "apply", lambda block, mode: asked.append(mode))
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f) or f)
    monkeypatch.setattr(sharding, "fully_shard", lambda module, **_: module)
    mesh = SimpleNamespace(size=lambda: 1)
    for compile in (True, False):
        model = loading.build(config(), "float32")
        sharding.shard(model, mesh, TrainConfig(recompute="full", compile=compile))
    assert asked == ["full"] * 8
    assert len(compiled) == 4
