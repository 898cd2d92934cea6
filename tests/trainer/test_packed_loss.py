"""Packing must change nothing: same loss, same gradients, no document reading another."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from hala_trainer.config import ModelConfig
from hala_trainer.data.documents import Corpus, Documents
from hala_trainer.data.order import in_order
from hala_trainer.model import attention, loading, packed, short_conv
from hala_trainer.model.packed import Inputs, PackedModel
from tests.trainer.conftest import small_config

VOCAB = 64
LENGTHS = [9, 1, 5, 1, 1, 2, 12, 3, 7, 1, 4]
SEQ_LEN = 16
ARCHITECTURES = ["lfm2", "gemma2", "cohere2", "qwen2"]
CPU = torch.device("cpu")


def documents() -> Documents:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    supervised = rng.random(offsets[-1]) < 0.6
    supervised[offsets[:-1]] = False
    return Documents(rng.integers(8, VOCAB, offsets[-1]).astype(np.uint16), supervised, offsets)


def load(architecture: str, compute: str = "float32") -> PackedModel:
    config = small_config(architecture, VOCAB)
    config.initializer_range = 0.3
    model = loading.build(config, compute)
    loading.fill(model, None, ModelConfig(init="random", seed=1), CPU)
    return model


def packed_loss(model: PackedModel, rows: int = 8) -> torch.Tensor:
    batches = list(in_order(Corpus([documents()]), rows, SEQ_LEN, pad=0))
    assert any((b.documents.max(1) > 1).any() for b in batches)
    return sum(model(Inputs.of(batch, CPU)) for batch in batches)


def stock_loss(model) -> torch.Tensor:
    """Every document alone, through transformers' own forward."""
    total, docs = torch.zeros(()), documents()
    for i in range(len(docs)):
        ids, learnt = docs.get(i)
        ids, learnt = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(learnt.copy())
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total + F.cross_entropy(logits[:-1][learnt[1:]], ids[learnt], reduction="sum")
    return total


def largest_gap(architecture: str) -> tuple[float, float]:
    """Relative differences (loss, worst gradient) between packed and stock unpacked."""
    model = load(architecture)
    stock = AutoModelForCausalLM.from_config(
        small_config(architecture, VOCAB), attn_implementation="eager"
    )
    missing = stock.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}
    stock.tie_weights()
    ours, theirs = packed_loss(model), stock_loss(stock)
    ours.backward()
    theirs.backward()
    expected = dict(stock.named_parameters())
    gaps = [
        ((p.grad - expected[n].grad).norm() / expected[n].grad.norm()).item()
        for n, p in model.named_parameters()
    ]
    return abs(ours.item() / theirs.item() - 1), max(gaps)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_loss_and_gradients_equal_unpacked(architecture, dense, monkeypatch):
    if not dense:  # as for rows too long to compute whole
        monkeypatch.setattr(attention, "DENSE", 0)
        monkeypatch.setattr(attention, "SPAN", 6)
    loss_gap, gradient_gap = largest_gap(architecture)
    assert loss_gap < 1e-6
    assert gradient_gap < 1e-5


def test_without_the_convolution_reset_packing_leaks(monkeypatch):
    def leaking(bcx, weight, bias, documents):
        return short_conv_packed(bcx, weight, bias, torch.zeros_like(documents))

    short_conv_packed = short_conv.short_conv_packed
    monkeypatch.setattr(short_conv, "short_conv_packed", leaking)
    assert largest_gap("lfm2")[1] > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_the_attention_mask_packing_leaks(architecture, monkeypatch):
    real = attention.masks
    monkeypatch.setattr(attention, "masks", lambda d, config: real(torch.zeros_like(d), config))
    assert largest_gap(architecture)[1] > 1e-3


def test_bfloat16_compute_stays_near_float32():
    exact, half = load("lfm2"), load("lfm2", "bfloat16")
    for block in half.blocks:  # FSDP would cast them
        block.to(torch.bfloat16)
    a, b = packed_loss(exact), packed_loss(half)
    assert abs(a.item() / b.item() - 1) < 2e-2
    assert half.embedding.weight.dtype == torch.float32


def test_gradients_of_micro_batches_add_up_to_those_of_one_batch():
    one, many = load("lfm2"), load("lfm2")
    packed_loss(one).backward()
    packed_loss(many, rows=1).backward()
    for (name, a), b in zip(one.named_parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_without_a_supervised_token_gives_zero_loss_and_gradients(architecture):
    model = load(architecture)
    docs = documents()
    docs.supervised[:] = False
    (batch,) = in_order(Corpus([docs]), 8, SEQ_LEN, pad=0)
    loss = model(Inputs.of(batch, CPU))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in model.parameters())


def test_the_first_token_of_a_document_is_predicted_by_nothing():
    docs = documents()
    docs.supervised[docs.offsets[:-1]] = True
    (marked,) = in_order(Corpus([docs]), 8, SEQ_LEN, pad=0)
    (plain,) = in_order(Corpus([documents()]), 8, SEQ_LEN, pad=0)
    model = load("lfm2")
    assert torch.equal(model(Inputs.of(marked, CPU)), model(Inputs.of(plain, CPU)))
    assert marked.supervised.sum() == plain.supervised.sum()


def test_gemma2_scales_its_embedding_as_inference_in_the_compute_dtype_does():
    config = small_config("gemma2", VOCAB)
    config.hidden_size = 24  # whose root bfloat16 rounds
    model = loading.build(config, "bfloat16")
    assert model.embedding.embed_scale.item() == torch.tensor(24**0.5).bfloat16().item()
    assert loading.build(config, "float32").embedding.embed_scale.item() == pytest.approx(24**0.5)


def test_random_init_depends_on_the_seed_alone():
    a, b = load("lfm2").state_dict(), load("lfm2").state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert tuple(ARCHITECTURES) == packed.ARCHITECTURES
