"""What the kernels of `fp8_gemm` share: reading a tile, one step of the product, the epilogue, and
what a launch needs to know of the operands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hala_kernels.backend import Device
from hala_kernels.triton_lang import TensorDescriptor, tl, triton

SLICE = 64
"""Columns that the epilogue finishes at a time: wider ones cost registers, and shared memory for
the store, that the accumulators and the pipeline need."""

_SLICE = tl.constexpr(SLICE)

PROMOTED = 128
"""A precise product adds the tensor cores' sum of this many to its float32 accumulator where they
add in fewer bits: sm_89 and sm_90. DeepGEMM promotes as often."""


@dataclass(frozen=True)
class Operands:
    """Checked arguments of `fp8_gemm`; scales are [M, 1] or [1, 1], and in blocks if `blocked`."""

    a: torch.Tensor
    a_scale: torch.Tensor
    b: torch.Tensor
    b_scale: torch.Tensor
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    out: torch.Tensor
    blocked: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, N, K."""
        return *self.out.shape, self.a.shape[1]

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        """From a row to the next and from a group of K to the next, of either scale."""
        return *_scale_strides(self.a_scale), *_scale_strides(self.b_scale)

    @property
    def residual_stride(self) -> int:
        return 0 if self.residual is None else self.residual.stride(0)

    @property
    def aligned(self) -> bool:
        """Whether the rows of `a` and `b` begin at 16-byte boundaries, as the copy engine asks."""
        return _aligned(self.a) and _aligned(self.b)

    @property
    def out_aligned(self) -> bool:
        """The same of `out` and `residual`. N that is no multiple of 16 costs masked loads the
        registers that wide tiles need, so it counts as unaligned."""
        written = self.out.shape[1] % 16 == 0 and _aligned(self.out)
        return written and (self.residual is None or _aligned(self.residual))


def _scale_strides(scale: torch.Tensor) -> tuple[int, int]:
    rows, groups = scale.shape
    return scale.stride(0) if rows > 1 else 0, scale.stride(1) if groups > 1 else 0


def _aligned(x: torch.Tensor) -> bool:
    return x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0


def tiles(x: torch.Tensor, rows: int, columns: int, descriptors: bool):
    """`x` as a kernel takes it: a descriptor of its tiles, or itself."""
    return TensorDescriptor.from_tensor(x, [rows, columns]) if descriptors else x


def accumulation(device: Device, blocked: bool, fast: bool, block_k: int) -> dict[str, str | int]:
    """How a step of K is added to the accumulator, as constants of a kernel.

    "scaled": times the scale of its block. "chain": in the tensor cores, to the end. "promoted":
    on sm_90 Triton adds the sum of every `PARTIAL` products to a second accumulator in float32.
    "added": the same spelled out, every BLOCK_K products, for sm_89, where Triton has no such
    option. From sm_100 on the tensor cores add in float32.
    """
    if blocked:
        return {"ACCUMULATE": "scaled", "PARTIAL": 0}
    if fast or device.capability not in (89, 90):
        return {"ACCUMULATE": "chain", "PARTIAL": 0}
    if device.capability == 90:
        return {"ACCUMULATE": "promoted", "PARTIAL": min(PROMOTED, block_k)}
    return {"ACCUMULATE": "added", "PARTIAL": block_k}


@triton.jit
def load_tile(
    x,
    row,
    k,
    rows_end,
    K,
    stride,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """[ROWS, BLOCK_K] of `x` from `row` and `k`; zero beyond K. Rows beyond the end are any."""
    if DESCRIPTORS:
        return x.load([row, k])
    else:
        rows = row + tl.arange(0, ROWS)
        rows = tl.where(rows < rows_end, rows, 0).to(tl.int64)
        columns = k + tl.arange(0, BLOCK_K)
        return tl.load(
            x + rows[:, None] * stride + columns[None, :], mask=columns[None, :] < K, other=0.0
        )


@triton.jit
def add_product(acc, left, right, scale, ACCUMULATE: tl.constexpr, PARTIAL: tl.constexpr):
    """`acc` + `left` @ `right`^T; see `accumulation`."""
    if ACCUMULATE == "scaled":
        return acc + tl.dot(left, right.T) * scale
    elif ACCUMULATE == "chain":
        return tl.dot(left, right.T, acc)
    elif ACCUMULATE == "promoted":
        return tl.dot(left, right.T, acc, max_num_imprecise_acc=PARTIAL)
    else:
        # The option means nothing on sm_89 but that Triton does not fold the sum into the dot.
        return acc + tl.dot(left, right.T, max_num_imprecise_acc=PARTIAL)


@triton.jit
def load_scale(scale, start, end, stride, ROWS: tl.constexpr):
    """[ROWS] scales of the rows from `start`."""
    rows = start + tl.arange(0, ROWS)
    return tl.load(scale + rows.to(tl.int64) * stride, mask=rows < end, other=0.0)


@triton.jit
def finish(
    acc,
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCALED: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """Scale `acc` [ROWS, COLUMNS] if SCALED, add bias and residual, store it at `row`, `column`."""
    if COLUMNS > _SLICE:
        HALF: tl.constexpr = COLUMNS // 2
        left, right = acc.reshape(ROWS, 2, HALF).permute(0, 2, 1).split()
        finish(
            left,
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
            ROWS,
            HALF,
            SCALED,
            DESCRIPTORS,
        )
        finish(
            right,
            row,
            column + HALF,
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
            ROWS,
            HALF,
            SCALED,
            DESCRIPTORS,
        )
    else:
        rows = row + tl.arange(0, ROWS)
        columns = column + tl.arange(0, COLUMNS)
        mask = (rows < M)[:, None] & (columns < N)[None, :]
        y = acc
        if SCALED:
            y *= load_scale(a_scale, row, M, stride_as, ROWS)[:, None]
            y *= load_scale(b_scale, column, N, stride_bs, COLUMNS)[None, :]
        if bias is not None:
            y += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        if residual is not None:
            if DESCRIPTORS:
                y += residual.load([row, column]).to(tl.float32)
            else:
                at = residual + rows.to(tl.int64)[:, None] * stride_residual + columns[None, :]
                y += tl.load(at, mask=mask, other=0.0).to(tl.float32)
        if DESCRIPTORS:
            out.store([row, column], y.to(out.dtype))
        else:
            at = out + rows.to(tl.int64)[:, None] * N + columns[None, :]
            tl.store(at, y.to(out.dtype.element_ty), mask=mask)
