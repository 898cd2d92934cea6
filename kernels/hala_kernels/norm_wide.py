"""The norm of rows too wide for the registers of a block: `norm_kernel` over chunks,
each read again in every pass. A row of 36864 columns takes 72 KB, so that all passes but the first
find it in the cache. No model that the engine runs is so wide.
"""

from __future__ import annotations

from hala_kernels.quantize import FLOAT32_MAX, GROUP, scale_of, to_e4m3
from hala_kernels.triton_lang import tl, triton

_GROUP = tl.constexpr(GROUP)
_FLOAT32_MAX = tl.constexpr(FLOAT32_MAX)


@triton.jit
def _scaled(h, weight_ptr, inverse, columns, N, PLUS_ONE: tl.constexpr):
    weight = tl.load(weight_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)
    if PLUS_ONE:
        weight += 1.0
    # inverse = 0 is an overflowed sum of squares; what overflowed may be infinite by now.
    return tl.where(inverse == 0.0, 0.0, h * inverse * weight)


@triton.jit
def _total(
    x_ptr, residual_ptr, input_weight_ptr, input_inverse, columns, N, PLUS_ONE: tl.constexpr
):
    """The row that is normed, in the dtype of x, at `columns`."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    total = tl.load(x_ptr + columns, mask=columns < N, other=0.0)
    if input_weight_ptr is not None:
        hidden = total.to(tl.float32)
        total = _scaled(hidden, input_weight_ptr, input_inverse, columns, N, PLUS_ONE).to(dtype)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)
        total = (total.to(tl.float32) + residual).to(dtype)
    return total


@triton.jit
def norm_wide_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    input_weight_ptr,
    out_ptr,
    total_ptr,
    scale_ptr,
    N,
    heads,
    x_stride,
    x_head_stride,
    residual_stride,
    residual_head_stride,
    eps,
    CENTRED: tl.constexpr,
    PLUS_ONE: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row a program; the arguments are those of `norm_kernel`."""
    row = tl.program_id(0).to(tl.int64)
    token, head = row // heads, row % heads
    x_ptr += token * x_stride + head * x_head_stride
    out_ptr += row * N
    if residual_ptr is not None:
        residual_ptr += token * residual_stride + head * residual_head_stride
        total_ptr += row * N
    width = N * 1.0
    block = tl.arange(0, BLOCK)

    input_inverse = 0.0
    if input_weight_ptr is not None:
        squares = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, N, BLOCK):
            x = tl.load(x_ptr + start + block, mask=start + block < N, other=0.0).to(tl.float32)
            squares += x * x
        input_inverse = tl.rsqrt(tl.math.div_rn(tl.sum(squares), width) + eps)

    mean = 0.0
    if CENTRED:
        sums = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, N, BLOCK):
            columns = start + block
            sums += _total(
                x_ptr, residual_ptr, input_weight_ptr, input_inverse, columns, N, PLUS_ONE
            ).to(tl.float32)
        mean = tl.math.div_rn(tl.sum(sums), width)
        mean = tl.where(tl.abs(mean) <= _FLOAT32_MAX, mean, 0.0)

    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, N, BLOCK):
        columns = start + block
        total = _total(x_ptr, residual_ptr, input_weight_ptr, input_inverse, columns, N, PLUS_ONE)
        if residual_ptr is not None:
            tl.store(total_ptr + columns, total, mask=columns < N)
        centred = tl.where(columns < N, total.to(tl.float32) - mean, 0.0)
        squares += centred * centred
    inverse = tl.rsqrt(tl.math.div_rn(tl.sum(squares), width) + eps)

    if scale_ptr is not None and not GROUPED:
        largest = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, N, BLOCK):
            columns = start + block
            total = _total(
                x_ptr, residual_ptr, input_weight_ptr, input_inverse, columns, N, PLUS_ONE
            )
            y = _scaled(total.to(tl.float32) - mean, weight_ptr, inverse, columns, N, PLUS_ONE)
            largest = tl.maximum(largest, tl.abs(y))
        scale = scale_of(tl.max(largest))
        tl.store(scale_ptr + row, scale)

    for start in range(0, N, BLOCK):
        columns = start + block
        total = _total(x_ptr, residual_ptr, input_weight_ptr, input_inverse, columns, N, PLUS_ONE)
        y = _scaled(total.to(tl.float32) - mean, weight_ptr, inverse, columns, N, PLUS_ONE)
        if scale_ptr is None:
            out = y.to(x_ptr.dtype.element_ty)
        elif GROUPED:
            by_group = tl.reshape(y, (BLOCK // _GROUP, _GROUP))
            group_scale = scale_of(tl.max(tl.abs(by_group), axis=1))
            group = start // _GROUP + tl.arange(0, BLOCK // _GROUP)
            groups = tl.cdiv(N, _GROUP)
            tl.store(scale_ptr + row * groups + group, group_scale, mask=group < groups)
            out = tl.reshape(to_e4m3(by_group, group_scale[:, None]), (BLOCK,))
        else:
            out = to_e4m3(y, scale)
        tl.store(out_ptr + columns, out, mask=columns < N)
