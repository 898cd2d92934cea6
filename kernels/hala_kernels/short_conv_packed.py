"""LFM2's gated short convolution for training: packed documents, forward and backward.

in_proj gives B, C, x for each token. With u = B * x, K taps and [same] for tokens of one document,

    s_t = sum_{d<K} [same t, t-d] w_{K-1-d} u_{t-d} + bias;   y_t = C_t s_t

and backwards, with ds = C dy,

    dC_t = dy_t s_t;   du_t = sum_d [same t, t+d] w_{K-1-d} ds_{t+d};   dB = x du;   dx = B du
    dw_{K-1-d} = sum_t [same t, t-d] ds_t u_{t-d};   dbias = sum_t ds_t.

Arithmetic is float32, rounded once. Floor: forward, read 3N columns and write N for a token;
backward, read 4N and write 3N. The kernels walk down the tokens with the last K-1 columns in
registers, so each is loaded once. dw and dbias are summed for each walk of SPAN tokens, and those
sums by torch, in an order that depends on T alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import device_of, launch, use_triton
from hala_kernels.short_conv import TAPS
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup


@triton.jit
def _tap(weight_ptr, back: tl.constexpr, columns, N, stride_n, stride_k, TAPS: tl.constexpr):
    """The weights of the token `back` before, float32."""
    start = weight_ptr + columns * stride_n + (TAPS - 1 - back) * stride_k
    return tl.load(start, mask=columns < N, other=0.0).to(tl.float32)


@triton.jit
def _where(condition, columns, N):
    """The mask of all columns where `condition`, a scalar, holds, else of none."""
    return columns < tl.where(condition, N, 0)


@triton.jit(do_not_specialize=["T"])
def _forward_kernel(
    bcx_ptr,
    weight_ptr,
    bias_ptr,
    document_ptr,
    out_ptr,
    T,
    N,
    stride,
    stride_n,
    stride_k,
    TAPS: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    begin = tl.program_id(0) * SPAN
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = columns < N
    zero = tl.zeros((BLOCK_N,), tl.float32)
    bias = zero
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    w_0 = _tap(weight_ptr, 0, columns, N, stride_n, stride_k, TAPS)
    w_1 = _tap(weight_ptr, 1, columns, N, stride_n, stride_k, TAPS)
    u_1 = zero
    document_1 = tl.load(document_ptr)  # any: it is compared where u_1 is zero
    if TAPS > 2:
        w_2 = _tap(weight_ptr, 2, columns, N, stride_n, stride_k, TAPS)
        u_2 = zero
        document_2 = document_1
    if TAPS > 3:
        w_3 = _tap(weight_ptr, 3, columns, N, stride_n, stride_k, TAPS)
        u_3 = zero
        document_3 = document_1

    # The loads of a token are issued while the token before is computed.
    first = begin - (TAPS - 1)
    here = _where(first >= 0, columns, N)
    row = bcx_ptr + first.to(tl.int64) * stride + columns
    next_b = tl.load(row, mask=here, other=0.0)
    next_x = tl.load(row + 2 * N, mask=here, other=0.0)
    next_c = next_b
    next_document = tl.load(document_ptr + first, mask=first >= 0, other=0)
    for step in range(SPAN + TAPS - 1):
        token = first + step
        b, c, x, document = next_b, next_c, next_x, next_document
        later = token + 1
        exists = (later >= 0) & (later < T)
        here = _where(exists, columns, N)
        row = bcx_ptr + later.to(tl.int64) * stride + columns
        next_b = tl.load(row, mask=here, other=0.0)
        next_c = tl.load(row + N, mask=here, other=0.0)
        next_x = tl.load(row + 2 * N, mask=here, other=0.0)
        next_document = tl.load(document_ptr + later, mask=exists, other=0)

        mine = (token >= begin) & (token < T)
        u = b.to(tl.float32) * x.to(tl.float32)
        s = bias
        if TAPS > 3:
            s = tl.fma(tl.where(document == document_3, u_3, zero), w_3, s)
            u_3, document_3 = u_2, document_2
        if TAPS > 2:
            s = tl.fma(tl.where(document == document_2, u_2, zero), w_2, s)
            u_2, document_2 = u_1, document_1
        s = tl.fma(tl.where(document == document_1, u_1, zero), w_1, s)
        u_1, document_1 = u, document
        s = tl.fma(u, w_0, s)
        y = (c.to(tl.float32) * s).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + token.to(tl.int64) * N + columns, y, mask=_where(mine, columns, N))


@triton.jit(do_not_specialize=["T"])
def _backward_kernel(
    bcx_ptr,
    weight_ptr,
    bias_ptr,
    document_ptr,
    dy_ptr,
    d_bcx_ptr,
    partial_ptr,
    T,
    N,
    stride,
    stride_n,
    stride_k,
    TAPS: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A walk from K-1 tokens before the span to K-1 after it; du of a token is complete, and with
    it dB and dx, K-1 tokens later. What lies outside counts as zero."""
    begin = tl.program_id(0) * SPAN
    end = tl.minimum(begin + SPAN, T)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = columns < N
    zero = tl.zeros((BLOCK_N,), tl.float32)
    bias = zero
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = d_bcx_ptr.dtype.element_ty

    first = begin - (TAPS - 1)
    here = _where(first >= 0, columns, N)
    row = bcx_ptr + first.to(tl.int64) * stride + columns
    next_b = tl.load(row, mask=here, other=0.0)
    next_x = tl.load(row + 2 * N, mask=here, other=0.0)
    next_c = tl.zeros_like(next_b)
    next_dy = next_c
    next_document = tl.load(document_ptr + first, mask=first >= 0, other=0)

    w_0 = _tap(weight_ptr, 0, columns, N, stride_n, stride_k, TAPS)
    w_1 = _tap(weight_ptr, 1, columns, N, stride_n, stride_k, TAPS)
    u_1, du_1, dw_0, dw_1, d_bias = zero, zero, zero, zero, zero
    b_1, x_1 = next_c, next_c
    document_1 = next_document
    if TAPS > 2:
        w_2 = _tap(weight_ptr, 2, columns, N, stride_n, stride_k, TAPS)
        u_2, du_2, dw_2 = zero, zero, zero
        b_2, x_2 = next_c, next_c
        document_2 = next_document
    if TAPS > 3:
        w_3 = _tap(weight_ptr, 3, columns, N, stride_n, stride_k, TAPS)
        u_3, du_3, dw_3 = zero, zero, zero
        b_3, x_3 = next_c, next_c
        document_3 = next_document

    for step in range(SPAN + 2 * (TAPS - 1)):
        token = first + step
        b, c, x, dy, document = next_b, next_c, next_x, next_dy, next_document
        later = token + 1
        row = bcx_ptr + later.to(tl.int64) * stride + columns
        here = _where((later >= 0) & (later < end), columns, N)
        next_b = tl.load(row, mask=here, other=0.0)
        next_x = tl.load(row + 2 * N, mask=here, other=0.0)
        here = _where((later >= begin) & (later < T), columns, N)
        next_c = tl.load(row + N, mask=here, other=0.0)
        next_dy = tl.load(dy_ptr + later.to(tl.int64) * N + columns, mask=here, other=0.0)
        next_document = tl.load(document_ptr + later, mask=(later >= 0) & (later < T), other=0)

        mine = (token >= begin) & (token < end)
        u = b.to(tl.float32) * x.to(tl.float32)
        ds = c.to(tl.float32) * dy.to(tl.float32)
        my_ds = tl.where(mine, ds, zero)
        s = tl.fma(u, w_0, bias)
        dw_0 = tl.fma(my_ds, u, dw_0)
        d_bias += my_ds
        du = ds * w_0

        same = document == document_1
        seen = tl.where(same, u_1, zero)
        s = tl.fma(seen, w_1, s)
        dw_1 = tl.fma(my_ds, seen, dw_1)
        du_1 = tl.fma(tl.where(same, ds, zero), w_1, du_1)
        if TAPS > 2:
            same = document == document_2
            seen = tl.where(same, u_2, zero)
            s = tl.fma(seen, w_2, s)
            dw_2 = tl.fma(my_ds, seen, dw_2)
            du_2 = tl.fma(tl.where(same, ds, zero), w_2, du_2)
        if TAPS > 3:
            same = document == document_3
            seen = tl.where(same, u_3, zero)
            s = tl.fma(seen, w_3, s)
            dw_3 = tl.fma(my_ds, seen, dw_3)
            du_3 = tl.fma(tl.where(same, ds, zero), w_3, du_3)

        to = d_bcx_ptr + token.to(tl.int64) * 3 * N + columns
        tl.store(to + N, (dy.to(tl.float32) * s).to(dtype), mask=_where(mine, columns, N))
        # The window moves on; what leaves it is done.
        if TAPS == 2:
            done, done_b, done_x = du_1, b_1, x_1
        elif TAPS == 3:
            done, done_b, done_x = du_2, b_2, x_2
        else:
            done, done_b, done_x = du_3, b_3, x_3
            u_3, du_3, b_3, x_3, document_3 = u_2, du_2, b_2, x_2, document_2
        if TAPS > 2:
            u_2, du_2, b_2, x_2, document_2 = u_1, du_1, b_1, x_1, document_1
        u_1, du_1, b_1, x_1, document_1 = u, du, b, x, document
        to -= (TAPS - 1) * 3 * N
        before = token - (TAPS - 1)
        here = _where((before >= begin) & (before < end), columns, N)
        tl.store(to, (done * done_x.to(tl.float32)).to(dtype), mask=here)
        tl.store(to + 2 * N, (done * done_b.to(tl.float32)).to(dtype), mask=here)

    ROWS: tl.constexpr = TAPS if bias_ptr is None else TAPS + 1
    sums = partial_ptr + tl.program_id(0).to(tl.int64) * ROWS * N + columns
    tl.store(sums + (TAPS - 1) * N, dw_0, mask=mask)
    tl.store(sums + (TAPS - 2) * N, dw_1, mask=mask)
    if TAPS > 2:
        tl.store(sums + (TAPS - 3) * N, dw_2, mask=mask)
    if TAPS > 3:
        tl.store(sums, dw_3, mask=mask)
    if bias_ptr is not None:
        tl.store(sums + TAPS * N, d_bias, mask=mask)


def short_conv_packed(
    bcx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, documents: torch.Tensor
) -> torch.Tensor:
    """`bcx` [T, 3N] -> y [T, N], differentiable in `bcx`, `weight` and `bias`.

    `weight` [N, K] depth-wise taps, oldest first; `bias` [N] or None; `documents` [T] integers: a
    token reads those before it that have its own number, which lie together. So the rows of a
    micro-batch, one after the other, need numbers of their own.

    Raises ValueError when shapes do not go together.
    """
    width, taps = weight.shape
    if taps not in TAPS:
        raise ValueError(f"a short convolution has 2, 3 or 4 taps, not {taps}")
    if bcx.ndim != 2 or bcx.shape[1] != 3 * width or documents.shape != bcx.shape[:1]:
        raise ValueError(
            f"{width} channels take B, C, x of {3 * width} columns and a document for each token, "
            f"not {tuple(bcx.shape)} and {tuple(documents.shape)}"
        )
    if use_triton(bcx):
        return _operator(bcx, weight, bias, documents)
    return reference(bcx, weight, bias, documents)


def reference(
    bcx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, documents: torch.Tensor
) -> torch.Tensor:
    """`short_conv_packed` in plain torch: shifted products, masked where documents differ."""
    b, c, x = bcx.chunk(3, dim=-1)
    u = b * x
    y = u * weight[:, -1]
    for back in range(1, min(weight.shape[1], len(u))):
        same = (documents[back:] == documents[:-back]).unsqueeze(-1)
        shifted = F.pad(torch.where(same, u[:-back], 0), (0, 0, back, 0))
        y = y + shifted * weight[:, -1 - back]
    return c * (y if bias is None else y + bias)


def forward(
    bcx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, documents: torch.Tensor
) -> torch.Tensor:
    """`short_conv_packed` by its kernel, not differentiable."""
    out = bcx.new_empty(len(bcx), len(weight))
    _launch("forward", _forward_kernel, bcx, weight, bias, documents, out)
    return out


def backward(
    bcx: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    documents: torch.Tensor,
    dy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """d_bcx [T, 3N]; and d_weight transposed, with d_bias below it where there is a bias, float32
    [K or K+1, N]."""
    d_bcx = bcx.new_empty(bcx.shape)
    rows = weight.shape[1] + (bias is not None)
    span = _config("backward", bcx)["SPAN"]
    partial = bcx.new_empty(triton.cdiv(len(bcx), span), rows, len(weight), dtype=torch.float32)
    _launch(
        "backward", _backward_kernel, bcx, weight, bias, documents, dy.contiguous(), d_bcx, partial
    )
    return d_bcx, partial.sum(0)


def _config(direction: str, bcx: torch.Tensor) -> dict:
    table = f"short_conv_packed_{direction}"
    return lookup(table, device_of(bcx), n=bcx.shape[1] // 3, t=len(bcx))


def _launch(direction: str, kernel, bcx, weight, bias, documents, *others: torch.Tensor) -> None:
    if bcx.stride(1) != 1:
        raise ValueError("the last dimension of bcx must be contiguous")
    tokens, (width, taps) = len(bcx), weight.shape
    config = _config(direction, bcx)
    grid = (triton.cdiv(tokens, config["SPAN"]), triton.cdiv(width, config["BLOCK_N"]))
    shape = (tokens, width, bcx.stride(0), *weight.stride(), taps)
    launch(kernel, grid, bcx, weight, bias, documents, *others, *shape, **config)


# Operators of torch rather than an autograd.Function, which torch.compile would look into.
_operator = torch.library.custom_op(
    "hala::short_conv_packed",
    forward,
    mutates_args=(),
    schema="(Tensor bcx, Tensor weight, Tensor? bias, Tensor documents) -> Tensor",
)
_backward_operator = torch.library.custom_op(
    "hala::short_conv_packed_backward",
    backward,
    mutates_args=(),
    schema="(Tensor bcx, Tensor weight, Tensor? bias, Tensor documents, Tensor dy)"
    " -> (Tensor, Tensor)",
)


@_operator.register_fake
def _(bcx, weight, bias, documents):
    return bcx.new_empty(len(bcx), len(weight))


@_backward_operator.register_fake
def _(bcx, weight, bias, documents, dy):
    rows = weight.shape[1] + (bias is not None)
    sums = bcx.new_empty(rows, len(weight), dtype=torch.float32)
    return bcx.new_empty(bcx.shape), sums


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: torch.Tensor):
    bcx, weight, bias, documents = ctx.saved_tensors
    d_bcx, sums = _backward_operator(bcx, weight, bias, documents, dy)
    taps = weight.shape[1]
    d_weight = sums[:taps].t().to(weight.dtype)
    return d_bcx, d_weight, None if bias is None else sums[taps].to(bias.dtype), None


_operator.register_autograd(_differentiate, setup_context=_save)
