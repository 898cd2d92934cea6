"""`fp8_gemm` for few rows: the weights stream through the chip once, and K is split where tiles of
N alone leave multiprocessors idle.

Floor: N K bytes of weights at the bandwidth of the memory. The weights are the left operand, so
that the tensor cores of sm_90, which take 64 rows of it, are filled even by one token: a tile is
out^T = b [BLOCK_N, K] @ a^T [K, BLOCK_M]. A part of K leaves float32 sums in a workspace, and a
second kernel adds the parts in order, so the result is the same on every run.
"""

from __future__ import annotations

import torch

from hala_kernels.backend import Device, launch
from hala_kernels.fp8_gemm_tile import (
    Operands,
    accumulation,
    add_product,
    finish,
    load_scale,
    load_tile,
    tiles,
)
from hala_kernels.quantize import GROUP
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import Config, lookup

_GROUP = tl.constexpr(GROUP)


@triton.jit(do_not_specialize=["M"])
def _streaming_kernel(
    a,
    b,
    a_scale,
    b_scale,
    bias,
    residual,
    out,
    parts,
    M,
    N,
    K,
    stride_a,
    stride_b,
    stride_as,
    stride_ag,
    stride_bs,
    stride_bg,
    stride_residual,
    ACCUMULATE: tl.constexpr,
    PARTIAL: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
):
    # Programs next to each other read the same weights.
    row = tl.program_id(0) * BLOCK_M
    column = tl.program_id(1) * BLOCK_N
    part = tl.program_id(2)
    steps = tl.cdiv(K, BLOCK_K)
    steps_of_part = tl.cdiv(steps, SPLIT)
    first = part * steps_of_part
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(first, min(first + steps_of_part, steps)):
        k = step * BLOCK_K
        b_tile = load_tile(b, column, k, N, K, stride_b, BLOCK_N, BLOCK_K, DESCRIPTORS)
        a_tile = load_tile(a, row, k, M, K, stride_a, BLOCK_M, BLOCK_K, DESCRIPTORS)
        scale = None
        if ACCUMULATE == "scaled":
            at = k // _GROUP
            scale = load_scale(a_scale + at * stride_ag, row, M, stride_as, BLOCK_M)[None, :]
            scale *= tl.load(b_scale + column // _GROUP * stride_bs + at * stride_bg)
        acc = add_product(acc, b_tile, a_tile, scale, ACCUMULATE, PARTIAL)
    if SPLIT == 1:
        finish(
            acc.T,
            row,
            column,
            a_scale,
            b_scale,
            stride_as,
            stride_bs,
            bias,
            residual,
            stride_residual,
            out,
            M,
            N,
            BLOCK_M,
            BLOCK_N,
            ACCUMULATE != "scaled",
            False,
        )
    else:
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        at = parts + (part.to(tl.int64) * M + rows[:, None]) * N + columns[None, :]
        tl.store(at, acc.T, mask=(rows < M)[:, None] & (columns < N)[None, :])


@triton.jit(do_not_specialize=["M"])
def _add_parts_kernel(
    parts,
    a_scale,
    b_scale,
    bias,
    residual,
    out,
    M,
    N,
    stride_as,
    stride_bs,
    stride_residual,
    SCALED: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK
    columns = column + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(SPLIT):
        at = parts + (part * M + row).to(tl.int64) * N + columns
        acc += tl.load(at, mask=columns < N, other=0.0)
    finish(
        acc[None, :],
        row,
        column,
        a_scale,
        b_scale,
        stride_as,
        stride_bs,
        bias,
        residual,
        stride_residual,
        out,
        M,
        N,
        1,
        BLOCK,
        SCALED,
        False,
    )


def streaming(operands: Operands, config: Config, device: Device) -> None:
    """Fill `operands.out`, in parts of K if `config` says so. Always precise: it costs nothing."""
    m, n, k = operands.shape
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    split = config["SPLIT"]
    descriptors = device.has_descriptors and operands.aligned
    strides = operands.scale_strides
    parts = None
    if split > 1:
        parts = torch.empty(split, m, n, dtype=torch.float32, device=operands.a.device)
    launch(
        _streaming_kernel,
        (triton.cdiv(m, block_m), triton.cdiv(n, block_n), split),
        tiles(operands.a, block_m, block_k, descriptors),
        tiles(operands.b, block_n, block_k, descriptors),
        operands.a_scale,
        operands.b_scale,
        operands.bias,
        operands.residual,
        operands.out,
        parts,
        m,
        n,
        k,
        operands.a.stride(0),
        operands.b.stride(0),
        *strides,
        operands.residual_stride,
        **accumulation(device, operands.blocked, False, block_k),
        DESCRIPTORS=descriptors,
        **config,
    )
    if parts is None:
        return
    config = lookup("fp8_gemm_reduce", device, n=n)
    launch(
        _add_parts_kernel,
        (m, triton.cdiv(n, config["BLOCK"])),
        parts,
        operands.a_scale,
        operands.b_scale,
        operands.bias,
        operands.residual,
        operands.out,
        m,
        n,
        strides[0],
        strides[2],
        operands.residual_stride,
        not operands.blocked,
        split,
        **config,
    )
