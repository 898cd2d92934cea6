"""Packing must change nothing: same loss, same gradients, no document reading another."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Lfm2ForCausalLM

from hala_trainer import packed_lfm2
from hala_trainer.config import ModelConfig
from hala_trainer.dataset import Documents
from hala_trainer.model import Trainee, batch_loss, load_model
from hala_trainer.packing import best_fit, build_batch

LENGTHS = [9, 1, 5, 1, 1, 2, 12, 3, 7, 1, 4]
SEQ_LEN = 16


def documents(vocab: int) -> Documents:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    supervised = rng.random(offsets[-1]) < 0.6
    supervised[offsets[:-1]] = False
    return Documents(rng.integers(8, vocab, offsets[-1]).astype(np.uint16), supervised, offsets)


def load(init_dir, attention="sdpa", compute="float32") -> Trainee:
    config = ModelConfig(
        path=str(init_dir), init="random", seed=1, attention=attention, compute=compute
    )
    return load_model(config, compile_blocks=False)


def packed_loss(trainee: Trainee, docs: Documents) -> torch.Tensor:
    rows = best_fit(np.array(LENGTHS), SEQ_LEN)
    assert len(rows) < len(LENGTHS)
    return batch_loss(trainee, build_batch(docs, rows, len(rows) + 1, SEQ_LEN, pad=0))


def stock_loss(model, docs: Documents) -> torch.Tensor:
    """Every document alone, through transformers' own forward."""
    total = torch.zeros(())
    for start, stop in zip(docs.offsets[:-1], docs.offsets[1:], strict=True):
        ids = torch.from_numpy(docs.ids[start:stop].astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        learnt = torch.from_numpy(docs.supervised[start:stop])
        total = total + F.cross_entropy(logits[:-1][learnt[1:]], ids[learnt], reduction="sum")
    return total


def largest_gap(init_dir, attention: str) -> tuple[float, float]:
    """Relative differences (loss, worst gradient) between packed and stock unpacked."""
    trainee = load(init_dir, attention)
    stock = Lfm2ForCausalLM(trainee.model.config)
    stock.load_state_dict(trainee.model.state_dict())
    docs = documents(trainee.model.config.vocab_size)
    ours, theirs = packed_loss(trainee, docs), stock_loss(stock, docs)
    ours.backward()
    theirs.backward()
    expected = dict(stock.named_parameters())
    gaps = [
        ((p.grad - expected[n].grad).norm() / expected[n].grad.norm()).item()
        for n, p in trainee.model.named_parameters()
    ]
    return abs(ours.item() / theirs.item() - 1), max(gaps)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_loss_and_gradients_equal_unpacked(init_dir, attention):
    loss_gap, gradient_gap = largest_gap(init_dir, attention)
    assert loss_gap < 1e-6
    assert gradient_gap < 1e-5


def test_without_the_convolution_reset_packing_leaks(init_dir, monkeypatch):
    def leaking(bcx, weight, bias, documents):
        return short_conv_packed(bcx, weight, bias, torch.zeros_like(documents))

    short_conv_packed = packed_lfm2.short_conv_packed
    monkeypatch.setattr(packed_lfm2, "short_conv_packed", leaking)
    assert largest_gap(init_dir, "sdpa")[1] > 1e-3


def test_without_the_attention_mask_packing_leaks(init_dir, monkeypatch):
    from hala_trainer import model

    real = model.block_mask
    monkeypatch.setattr(model, "block_mask", lambda d, dtype: real(torch.zeros_like(d), dtype))
    assert largest_gap(init_dir, "sdpa")[1] > 1e-3


def test_bfloat16_compute_stays_near_float32_and_masters_stay_float32(init_dir):
    exact, half = load(init_dir), load(init_dir, compute="bfloat16")
    docs = documents(exact.model.config.vocab_size)
    a, b = packed_loss(exact, docs), packed_loss(half, docs)
    assert abs(a.item() / b.item() - 1) < 5e-3
    a.backward()
    b.backward()
    half.collect_gradients()
    for name, master in half.masters.items():
        want = exact.masters[name].grad
        assert master.dtype == master.grad.dtype == torch.float32
        assert (master.grad - want).norm() / want.norm() < 0.05, name


def test_accumulated_gradients_equal_those_of_one_large_batch(init_dir):
    docs = documents(64)
    rows = best_fit(np.array(LENGTHS), SEQ_LEN)
    one, many = load(init_dir), load(init_dir)
    batch_loss(one, build_batch(docs, rows, len(rows), SEQ_LEN, 0)).backward()
    for row in rows:
        batch_loss(many, build_batch(docs, [row], 1, SEQ_LEN, 0)).backward()
        many.collect_gradients()
    for name, master in one.masters.items():
        torch.testing.assert_close(many.masters[name].grad, master.grad, rtol=1e-4, atol=1e-5)


def test_random_init_depends_on_the_seed_alone(init_dir):
    a, b = load(init_dir).masters, load(init_dir).masters
    assert all(torch.equal(a[n], b[n]) for n in a)
