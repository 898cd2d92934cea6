"""Norm, rotary embedding with cache write, and gated activation against float64."""

from __future__ import annotations

import torch

from hala_kernels.activation import silu_mul
from hala_kernels.norm import add_rms_norm, rms_norm
from hala_kernels.rope_cache import rope_and_cache


def exact_norm(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def test_rms_norm_matches_float64():
    torch.manual_seed(0)
    x, residual, weight = torch.randn(7, 33) * 50, torch.randn(7, 33), torch.rand(33) + 0.5
    x[3] = 0
    got = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(got.double(), exact_norm(x, weight, 1e-5), atol=1e-5, rtol=1e-5)
    got, total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    expected = exact_norm(x + residual, weight, 1e-5)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


def test_silu_mul_matches_float64_and_leaves_its_input():
    gate_up = torch.randn(5, 26) * 20
    before = gate_up.clone()
    gate, up = gate_up.double().chunk(2, -1)
    expected = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(silu_mul(gate_up).double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(gate_up, before)


def test_rope_and_cache_rotates_pairs_and_writes_only_its_slots():
    torch.manual_seed(1)
    tokens, heads, kv_heads, dim = 5, 4, 2, 8
    q, k, v = (torch.randn(tokens, h, dim) for h in (heads, kv_heads, kv_heads))
    q_weight, k_weight = torch.rand(dim) + 0.5, torch.rand(dim) + 0.5
    angles = torch.randn(tokens, dim // 2)
    caches = torch.full((3, 4, kv_heads, dim), 9.0), torch.full((3, 4, kv_heads, dim), 9.0)
    slots = torch.tensor([11, 4, 0, 7, 5])
    got = rope_and_cache(
        q, k, v, angles.cos(), angles.sin(), *caches, slots, q_weight, k_weight, 1e-5
    )

    def exact(x, weight):
        x = exact_norm(x, weight, 1e-5)
        z = torch.complex(x[..., : dim // 2], x[..., dim // 2 :])
        z = z * torch.exp(1j * angles.double())[:, None]
        return torch.cat((z.real, z.imag), -1)

    torch.testing.assert_close(got.double(), exact(q, q_weight), atol=1e-5, rtol=1e-5)
    k_flat, v_flat = caches[0].flatten(0, 1), caches[1].flatten(0, 1)
    torch.testing.assert_close(k_flat[slots].double(), exact(k, k_weight), atol=1e-5, rtol=1e-5)
    assert torch.equal(v_flat[slots], v)
    others = [i for i in range(12) if i not in slots.tolist()]
    assert (k_flat[others] == 9).all() and (v_flat[others] == 9).all()


def test_rope_without_norm_keeps_lengths():
    q, k, v = torch.randn(3, 2, 4), torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    angles = torch.tensor([[0.0, 0.0], [1.0, 2.0], [300.0, -4.0]])
    cache = torch.zeros(1, 4, 1, 4), torch.zeros(1, 4, 1, 4)
    got = rope_and_cache(q, k, v, angles.cos(), angles.sin(), *cache, torch.arange(3))
    torch.testing.assert_close(got.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(got[0], q[0])
