"""`fp8_gemm` for many rows: persistent programs, one a multiprocessor, that walk the tiles.

Floor: 2 M N K FLOPs at the rate of the FP8 tensor cores. What holds a product below it on sm_90:
operands read again from the L2 for every tile (48 KB for 128 x 256 x 128, which the tensor cores
take 1024 cycles for), the float32 additions of the precise form, and the epilogue.

The precise form of a 128 x 256 tile would need two accumulators of 128 registers a thread. So the
tile is two halves of 128 columns, each with an accumulator of its own, and the sum of 128 products
is of one half at a time: 3 x 64 registers; the additions of one half overlap with the other's dot.
"""

from __future__ import annotations

from hala_kernels.backend import Device, launch
from hala_kernels.fp8_gemm_tile import (
    SLICE,
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
from hala_kernels.tuning import Config

_GROUP = tl.constexpr(GROUP)


@triton.jit(do_not_specialize=["M"])
def _persistent_kernel(
    a,
    b,
    a_scale,
    b_scale,
    bias,
    residual,
    out,
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
    PROGRAMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    HALF: tl.constexpr = BLOCK_N // HALVES
    row_tiles = tl.cdiv(M, BLOCK_M)
    column_tiles = tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    # Flattened, the loads of the next tile's first steps overlap with this one's epilogue.
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, PROGRAMS, flatten=True):
        # Down GROUP_M tiles, then to the next column: a wave of programs reads few rows of a and b.
        group = tile // (GROUP_M * column_tiles)
        within = tile % (GROUP_M * column_tiles)
        height = min(row_tiles - group * GROUP_M, GROUP_M)
        row = (group * GROUP_M + within % height) * BLOCK_M
        column = within // height * BLOCK_N
        acc = tl.zeros((BLOCK_M, HALF), tl.float32)
        if HALVES == 2:
            other = tl.zeros((BLOCK_M, HALF), tl.float32)
        for step in range(steps):
            k = step * BLOCK_K
            a_tile = load_tile(a, row, k, M, K, stride_a, BLOCK_M, BLOCK_K, DESCRIPTORS)
            b_tile = load_tile(b, column, k, N, K, stride_b, HALF, BLOCK_K, DESCRIPTORS)
            scale = None
            if ACCUMULATE == "scaled":
                at = k // _GROUP
                by_row = load_scale(a_scale + at * stride_ag, row, M, stride_as, BLOCK_M)[:, None]
                by_block = b_scale + at * stride_bg
                scale = by_row * tl.load(by_block + column // _GROUP * stride_bs)
            acc = add_product(acc, a_tile, b_tile, scale, ACCUMULATE, PARTIAL)
            if HALVES == 2:
                b_tile = load_tile(b, column + HALF, k, N, K, stride_b, HALF, BLOCK_K, DESCRIPTORS)
                if ACCUMULATE == "scaled":
                    block = min(column + HALF, N - 1) // _GROUP
                    scale = by_row * tl.load(by_block + block * stride_bs)
                other = add_product(other, a_tile, b_tile, scale, ACCUMULATE, PARTIAL)
        for half in tl.static_range(HALVES):
            finish(
                acc if half == 0 else other,
                row,
                column + half * HALF,
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
                HALF,
                ACCUMULATE != "scaled",
                DESCRIPTORS,
            )


def persistent(operands: Operands, config: Config, device: Device, fast: bool) -> None:
    """Fill `operands.out` with tiles of `config`; `a` and `b` are aligned."""
    m, n, k = operands.shape
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    descriptors = device.has_descriptors and operands.out_aligned
    half = block_n // config["HALVES"]
    columns = min(half, SLICE)
    residual = operands.residual
    programs = min(device.multiprocessors, triton.cdiv(m, block_m) * triton.cdiv(n, block_n))
    launch(
        _persistent_kernel,
        (programs,),
        tiles(operands.a, block_m, block_k, descriptors),
        tiles(operands.b, half, block_k, descriptors),
        operands.a_scale,
        operands.b_scale,
        operands.bias,
        None if residual is None else tiles(residual, block_m, columns, descriptors),
        tiles(operands.out, block_m, columns, descriptors),
        m,
        n,
        k,
        operands.a.stride(0),
        operands.b.stride(0),
        *operands.scale_strides,
        operands.residual_stride,
        **accumulation(device, operands.blocked, fast, block_k),
        DESCRIPTORS=descriptors,
        PROGRAMS=device.multiprocessors,
        **config,
    )
