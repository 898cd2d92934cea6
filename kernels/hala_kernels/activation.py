"""Gated activations of the MLP, `act(gate) * up` for a fused gate-and-up projection, in the dtype
of the input or quantized to e4m3 for the down projection.

    silu(g) = g * sigmoid(g)
    gelu_tanh(g) = g * sigmoid(2 sqrt(2/pi) (g + 0.044715 g^3))

the second being 0.5 g (1 + tanh(...)) written with one exponential. Arithmetic is float32; the
reference and the C kernel (native/activation.c) round act(gate) to the dtype before they multiply.
Floor: read 2N columns, write N; quantized, N bytes and the scales.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import device_of, launch, use_native, use_triton
from hala_kernels.native import INT, POINTER, SIZE, function, is_bf16
from hala_kernels.quantize import (
    FP8,
    GROUP,
    MOST_HELD,
    check_group,
    quantize_reference,
    scale_of,
    to_e4m3,
)
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

_GATED = function("hala_gated", POINTER, POINTER, SIZE, SIZE, SIZE, INT, INT)
_SILU, _GELU_TANH = range(2)  # `kind` in native/activation.c

_TWO_SQRT_2_OVER_PI = tl.constexpr(1.5957691216057308)
_GROUP = tl.constexpr(GROUP)


@triton.jit
def _gated(gate_up_ptr, row, columns, N, stride, ACTIVATION: tl.constexpr):
    """act(gate) * up at `columns` of a row, float32, zero beyond N."""
    start = gate_up_ptr + row * stride
    gate = tl.load(start + columns, mask=columns < N, other=0.0).to(tl.float32)
    up = tl.load(start + N + columns, mask=columns < N, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        share = tl.sigmoid(gate)
    else:
        share = tl.sigmoid((gate + 0.044715 * gate * gate * gate) * _TWO_SQRT_2_OVER_PI)
    return gate * share * up


@triton.jit
def _mul_kernel(gate_up_ptr, out_ptr, N, stride, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = _gated(gate_up_ptr, row, columns, N, stride, ACTIVATION)
    tl.store(out_ptr + row * N + columns, y.to(out_ptr.dtype.element_ty), mask=columns < N)


@triton.jit
def _mul_quantize_token_kernel(
    gate_up_ptr,
    out_ptr,
    scale_ptr,
    N,
    stride,
    ACTIVATION: tl.constexpr,
    HELD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row a program: HELD chunks of it in registers, the rest read twice, the second time from
    the cache."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCK)
    held = ()
    largest = tl.zeros((BLOCK,), tl.float32)
    for c in tl.static_range(HELD):
        y = _gated(gate_up_ptr, row, c * BLOCK + block, N, stride, ACTIVATION)
        largest = tl.maximum(largest, tl.abs(y))
        held += (y,)
    for start in range(HELD * BLOCK, N, BLOCK):
        more = _gated(gate_up_ptr, row, start + block, N, stride, ACTIVATION)
        largest = tl.maximum(largest, tl.abs(more))
    scale = scale_of(tl.max(largest))
    tl.store(scale_ptr + row, scale)
    for c in tl.static_range(HELD):
        columns = c * BLOCK + block
        tl.store(out_ptr + row * N + columns, to_e4m3(held[c], scale), mask=columns < N)
    for start in range(HELD * BLOCK, N, BLOCK):
        columns = start + block
        more = _gated(gate_up_ptr, row, columns, N, stride, ACTIVATION)
        tl.store(out_ptr + row * N + columns, to_e4m3(more, scale), mask=columns < N)


@triton.jit
def _mul_quantize_group_kernel(
    gate_up_ptr,
    out_ptr,
    scale_ptr,
    N,
    stride,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = _gated(gate_up_ptr, row, columns, N, stride, ACTIVATION)
    by_group = tl.reshape(y, (BLOCK // _GROUP, _GROUP))
    scale = scale_of(tl.max(tl.abs(by_group), axis=1))
    group = tl.program_id(1) * (BLOCK // _GROUP) + tl.arange(0, BLOCK // _GROUP)
    groups = tl.cdiv(N, _GROUP)
    tl.store(scale_ptr + row * groups + group, scale, mask=group < groups)
    q = tl.reshape(to_e4m3(by_group, scale[:, None]), (BLOCK,))
    tl.store(out_ptr + row * N + columns, q, mask=columns < N)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU: `gate_up` [T, 2N] holds gate then up; returns silu(gate) * up, [T, N]."""
    if use_triton(gate_up):
        return _mul(gate_up, "silu")
    if use_native(gate_up):
        return _mul_native(gate_up, _SILU)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def gelu_tanh_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """GeGLU with the tanh approximation: `gate_up` [T, 2N] -> gelu(gate) * up, [T, N]."""
    if use_triton(gate_up):
        return _mul(gate_up, "gelu_tanh")
    if use_native(gate_up):
        return _mul_native(gate_up, _GELU_TANH)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)


def silu_mul_quantize(
    gate_up: torch.Tensor, group: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`silu_mul` in e4m3 [T, N], and its scales: [T, 1], or [T, ceil(N / 128)] for `group` 128."""
    if use_triton(gate_up):
        return _mul_quantize(gate_up, "silu", group)
    return quantize_reference(silu_mul(gate_up.float()), group)


def gelu_tanh_mul_quantize(
    gate_up: torch.Tensor, group: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gelu_tanh_mul` in e4m3, with scales as `silu_mul_quantize` has them."""
    if use_triton(gate_up):
        return _mul_quantize(gate_up, "gelu_tanh", group)
    return quantize_reference(gelu_tanh_mul(gate_up.float()), group)


def _mul(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    gate_up, tokens, width = _halves(gate_up)
    out = gate_up.new_empty(tokens, width)
    config = lookup("gated_mul", device_of(gate_up), n=width)
    grid = (tokens, triton.cdiv(width, config["BLOCK"]))
    launch(_mul_kernel, grid, gate_up, out, width, gate_up.stride(0), activation, **config)
    return out


def _mul_native(gate_up: torch.Tensor, kind: int) -> torch.Tensor:
    gate_up, tokens, width = _halves(gate_up)
    out = gate_up.new_empty(tokens, width)
    pointers = gate_up.data_ptr(), out.data_ptr()
    _GATED(*pointers, tokens, width, gate_up.stride(0), kind, is_bf16(gate_up))
    return out


def _mul_quantize(
    gate_up: torch.Tensor, activation: str, group: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    check_group(group)
    gate_up, tokens, width = _halves(gate_up)
    out = gate_up.new_empty(tokens, width, dtype=FP8)
    scales = triton.cdiv(width, GROUP) if group else 1
    scale = gate_up.new_empty(tokens, scales, dtype=torch.float32)
    args = (gate_up, out, scale, width, gate_up.stride(0), activation)
    if group is None:
        config = lookup("gated_mul_quantize_token", device_of(gate_up), n=width)
        held = min(triton.cdiv(width, config["BLOCK"]), MOST_HELD)
        launch(_mul_quantize_token_kernel, (tokens,), *args, held, **config)
    else:
        config = lookup("gated_mul_quantize_group", device_of(gate_up), n=width)
        grid = (tokens, triton.cdiv(width, config["BLOCK"]))
        launch(_mul_quantize_group_kernel, grid, *args, **config)
    return out, scale


def _halves(gate_up: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """`gate_up` with adjacent columns (copied if they are not), its rows, and half its columns."""
    tokens, columns = gate_up.shape
    if columns % 2:
        raise ValueError(f"gate and up make an even number of columns, not {columns}")
    return gate_up if gate_up.stride(1) == 1 else gate_up.contiguous(), tokens, columns // 2
