"""The kernel of norm.py: a few rows a program, held in registers from the first read to the last
write."""

from __future__ import annotations

from hala_kernels.quantize import FLOAT32_MAX, GROUP, scale_of, to_e4m3
from hala_kernels.triton_lang import tl, triton

_GROUP = tl.constexpr(GROUP)
_FLOAT32_MAX = tl.constexpr(FLOAT32_MAX)


@triton.jit
def _starts(row, heads, stride, head_stride):
    """Where the rows [ROWS] of [tokens, heads, N] start; [ROWS, 1] int64."""
    start = (row // heads).to(tl.int64) * stride + (row % heads).to(tl.int64) * head_stride
    return start[:, None]


@triton.jit
def _inside(row, rows, N, chunk, BLOCK: tl.constexpr):
    columns = chunk * BLOCK + tl.arange(0, BLOCK)
    return (row < rows)[:, None] & (columns < N)[None, :]


@triton.jit
def _load(ptr, starts, row, rows, N, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    """Rows of N columns as a tuple of chunks [ROWS, BLOCK], zero beyond N."""
    chunks = ()
    for c in tl.static_range(CHUNKS):
        at = ptr + starts + (c * BLOCK + tl.arange(0, BLOCK))[None, :]
        chunks += (tl.load(at, mask=_inside(row, rows, N, c, BLOCK), other=0.0),)
    return chunks


@triton.jit
def _floats(chunks, CHUNKS: tl.constexpr):
    converted = ()
    for c in tl.static_range(CHUNKS):
        converted += (chunks[c].to(tl.float32),)
    return converted


@triton.jit
def _sum(chunks, SQUARED: tl.constexpr, CHUNKS: tl.constexpr):
    """The sum of each row, or of its squares; [ROWS, 1]."""
    partial = tl.zeros_like(chunks[0])
    for c in tl.static_range(CHUNKS):
        partial += chunks[c] * chunks[c] if SQUARED else chunks[c]
    return tl.sum(partial, axis=1)[:, None]


@triton.jit
def _centred(chunks, row, rows, N, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    """The rows less their means; a mean beyond float32 counts as zero."""
    mean = tl.math.div_rn(_sum(chunks, False, CHUNKS), N * 1.0)
    mean = tl.where(tl.abs(mean) <= _FLOAT32_MAX, mean, 0.0)
    centred = ()
    for c in tl.static_range(CHUNKS):
        inside = _inside(row, rows, N, c, BLOCK)
        centred += (tl.where(inside, chunks[c] - mean, 0.0),)
    return centred


@triton.jit
def _normalised(chunks, weights, N, eps, PLUS_ONE: tl.constexpr, CHUNKS: tl.constexpr):
    inverse = tl.rsqrt(tl.math.div_rn(_sum(chunks, True, CHUNKS), N * 1.0) + eps)
    normalised = ()
    for c in tl.static_range(CHUNKS):
        weight = weights[c].to(tl.float32)
        if PLUS_ONE:
            weight += 1.0
        # inverse = 0 is an overflowed sum of squares; what overflowed may be infinite by now.
        normalised += (tl.where(inverse == 0.0, 0.0, chunks[c] * inverse * weight),)
    return normalised


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    input_weight_ptr,
    out_ptr,
    total_ptr,
    scale_ptr,
    rows,
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
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """ROWS rows a program. Absent tensors are None: the residual and its total, Gemma's input
    weight, the scale of a result that is not quantized. EARLY asks for the residual and the weight
    before the first reduction, which waits for x; it takes registers."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    wide_row = row.to(tl.int64)[:, None]
    same_row = tl.zeros_like(wide_row)
    residual_starts = _starts(row, heads, residual_stride, residual_head_stride)
    starts = _starts(row, heads, x_stride, x_head_stride)
    chunks = _load(x_ptr, starts, row, rows, N, BLOCK, CHUNKS)
    if EARLY:
        weights = _load(weight_ptr, same_row, row, rows, N, BLOCK, CHUNKS)
        if residual_ptr is not None:
            residuals = _load(residual_ptr, residual_starts, row, rows, N, BLOCK, CHUNKS)
    hidden = _floats(chunks, CHUNKS)
    if input_weight_ptr is not None:
        input_weights = _load(input_weight_ptr, same_row, row, rows, N, BLOCK, CHUNKS)
        hidden = _normalised(hidden, input_weights, N, eps, PLUS_ONE, CHUNKS)
    if residual_ptr is not None:
        if not EARLY:
            residuals = _load(residual_ptr, residual_starts, row, rows, N, BLOCK, CHUNKS)
        totals = ()
        for c in tl.static_range(CHUNKS):
            total = (hidden[c].to(dtype).to(tl.float32) + residuals[c].to(tl.float32)).to(dtype)
            at = total_ptr + wide_row * N + (c * BLOCK + tl.arange(0, BLOCK))[None, :]
            tl.store(at, total, mask=_inside(row, rows, N, c, BLOCK))
            totals += (total.to(tl.float32),)
        hidden = totals
    if CENTRED:
        hidden = _centred(hidden, row, rows, N, BLOCK, CHUNKS)
    if not EARLY:
        weights = _load(weight_ptr, same_row, row, rows, N, BLOCK, CHUNKS)
    y = _normalised(hidden, weights, N, eps, PLUS_ONE, CHUNKS)

    if scale_ptr is not None and not GROUPED:
        largest = tl.zeros_like(y[0])
        for c in tl.static_range(CHUNKS):
            largest = tl.maximum(largest, tl.abs(y[c]))
        scale = scale_of(tl.max(largest, axis=1))
        tl.store(scale_ptr + row, scale, mask=row < rows)
    for c in tl.static_range(CHUNKS):
        if scale_ptr is None:
            out = y[c].to(dtype)
        elif GROUPED:
            by_group = tl.reshape(y[c], (ROWS, BLOCK // _GROUP, _GROUP))
            group_scale = scale_of(tl.max(tl.abs(by_group), axis=2))
            group = c * (BLOCK // _GROUP) + tl.arange(0, BLOCK // _GROUP)
            groups = tl.cdiv(N, _GROUP)
            valid = (row < rows)[:, None] & (group < groups)[None, :]
            tl.store(scale_ptr + wide_row * groups + group[None, :], group_scale, mask=valid)
            out = tl.reshape(to_e4m3(by_group, group_scale[:, :, None]), (ROWS, BLOCK))
        else:
            out = to_e4m3(y[c], scale[:, None])
        at = out_ptr + wide_row * N + (c * BLOCK + tl.arange(0, BLOCK))[None, :]
        tl.store(at, out, mask=_inside(row, rows, N, c, BLOCK))
