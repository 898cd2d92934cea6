"""Gated activations, plain and quantized, against float64."""

from __future__ import annotations

import pytest
import torch

from hala_kernels import activation, tuning
from hala_kernels.backend import forced
from tests.kernels.compare import assert_near
from tests.kernels.e4m3 import assert_recovers, same_bits


def exact(name: str, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, -1)
    if name == "silu_mul":
        return gate / (1 + (-gate).exp()) * up
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    return gate / (1 + (-2 * inner).exp()) * up  # (1 + tanh(inner)) / 2, without its cancellation


# exp(-gate) overflows where the sigmoid is 0.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

NAMES = ("silu_mul", "gelu_tanh_mul")
SHAPES = [(0, 8), (1, 1), (3, 130), (2, 1024), (2, 1025), (1, 9000)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_matches_float64(name, tokens, width, dtype, implementation, device):
    gate_up = (torch.randn(tokens, 2 * width, device=device) * 10).to(dtype)
    before = gate_up.clone()
    got = getattr(activation, name)(gate_up)
    assert got.dtype == dtype
    assert_near(got, exact(name, gate_up), 2e-5 if dtype == torch.float32 else None)
    assert torch.equal(gate_up, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_quantized_product_recovers_to_half_a_step(
    name, group, tokens, width, implementation, device
):
    gate_up = (torch.randn(tokens, 2 * width, device=device) * 10).bfloat16()
    q, scale = getattr(activation, f"{name}_quantize")(gate_up, group)
    assert scale.shape == (tokens, -(-width // 128) if group else 1)
    gate, up = gate_up.double().chunk(2, -1)
    cancelled = (gate * up).abs() * 1e-7  # torch's gelu adds 1 to a tanh of almost -1
    assert_recovers(q, scale, exact(name, gate_up), cancelled)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [128, 1024, 1500])
def test_rows_beyond_the_registers_are_read_again(name, width, triton_kernels, device):
    gate_up = (torch.randn(2, 2 * width, device=device) * 3).bfloat16()
    gate_up[0, width - 1] = gate_up[0, -1] = 50  # the largest of its row, in the last chunk
    with tuning.forcing("gated_mul_quantize_token", {"BLOCK": 128, "num_warps": 1}):
        q, scale = getattr(activation, f"{name}_quantize")(gate_up)
    assert_recovers(q, scale, exact(name, gate_up))
    assert abs(q[0, -1].float()) == 448


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [None, 128])
def test_kernel_quantizes_to_the_same_bits_as_the_reference(name, group, device, triton_kernels):
    gate_up = (torch.randn(5, 2 * 700, device=device) * 3).bfloat16()
    gate_up[1] = 0
    gate_up[2] *= 1e15
    gate_up[3] *= 1e-15
    operation = getattr(activation, f"{name}_quantize")
    q, scale = operation(gate_up, group)
    with forced("reference"):
        expected_q, expected_scale = operation(gate_up, group)
    assert torch.isfinite(q.float()).all()
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    assert (q.float() != expected_q.float()).float().mean() < 1e-2
    assert (q[1].float() == 0).all()


def test_another_group_is_refused(device, implementation):
    with pytest.raises(ValueError, match="128"):
        activation.silu_mul_quantize(torch.zeros(1, 256, device=device), 64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [None, 128])
def test_a_product_beyond_float32_saturates(name, group, implementation, device):
    gate_up = torch.ones(2, 400, device=device)
    gate_up[0, 3], gate_up[0, 203] = 1e30, -1e30
    q, scale = getattr(activation, f"{name}_quantize")(gate_up, group)
    assert torch.isfinite(q.float()).all() and torch.isfinite(scale).all()
    assert q[0, 3].float() == -448


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_neither_on_its_neighbours_nor_on_its_stride(name, triton_kernels, device):
    wide = torch.randn(5, 3000, device=device).bfloat16()
    operation, quantized = (getattr(activation, n) for n in (name, f"{name}_quantize"))
    for view in (wide[:, 5:2005], wide[:, :2600:2]):
        together = (operation(view), *quantized(view), *quantized(view, 128))
        row = view[3:4].contiguous()
        alone = (operation(row), *quantized(row), *quantized(row, 128))
        for many, one in zip(together, alone, strict=True):
            assert same_bits(many[3:4].contiguous(), one)


def test_an_odd_number_of_columns_is_refused(triton_kernels, device):
    with pytest.raises(ValueError, match="even"):
        activation.silu_mul(torch.zeros(1, 5, device=device))
