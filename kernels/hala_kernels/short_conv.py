"""LFM2's gated short convolution over packed sequences, with its state read and updated.

in_proj gives B, C, x for each token. With u = B * x and K taps,

    y_t = C_t * (sum_{j<K} w_j * u_{t-K+1+j} + bias),

where u before a sequence's first token in this step comes from its state, the K-1 columns of u that
preceded it (zeros at the start). u is rounded to the dtype of the states wherever it comes from, so
that a chunk's result does not depend on where the chunk before it ended; sums are float32.
Floor: read 3N columns and write N for a token, and the state of each sequence once in and once out.

Two Triton kernels. `_step_kernel`: one token for each sequence. `_chunks_kernel`: any lengths,
tiles of tokens. There the old state is read by the first K-1 tokens of a sequence, and the new one
written, in one launch: so a tile's bounds move until no sequence begins in one tile and has its
K-1st token in the next, and the tile with a sequence's first token writes the state, computing the
last columns of u anew. Nobody else touches that state.

The C kernel (native/short_conv.c) takes any lengths: a thread goes through a sequence's tokens with
a block of its columns, so it reads the state first and writes it last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hala_kernels.backend import device_of, launch, use_native, use_triton
from hala_kernels.native import INT, POINTER, SIZE, function, is_bf16
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

TAPS = (2, 3, 4)

_SHORT_CONV = function("hala_short_conv", *[POINTER] * 7, *[SIZE] * 6, INT, INT)


@dataclass(frozen=True, eq=False)
class ConvLayout:
    """Which rows of a step belong to which sequence; the same for every layer, so made once.

    `seqlens` [S] int64 on the CPU: tokens of each sequence in this step, 0 for none; `tokens`:
    their sum. The index tensors that an implementation needs are made on `device` on first use.
    """

    seqlens: np.ndarray
    taps: int
    tokens: int
    device: torch.device

    @classmethod
    def of(cls, seqlens: torch.Tensor, taps: int) -> ConvLayout:
        """`seqlens` [S] int64 on the CPU. Raises ValueError unless `taps` is 2, 3 or 4."""
        if taps not in TAPS:
            raise ValueError(f"a short convolution has 2, 3 or 4 taps, not {taps}")
        lengths = seqlens.numpy()
        return cls(lengths, taps, int(lengths.sum()), torch.device("cpu"))

    @classmethod
    def on_device(cls, packed: torch.Tensor | None, sequences: int, taps: int) -> ConvLayout:
        """Of a step whose `packed` [3, T] int32 is on the device already, in a buffer that a graph
        reads say, so that the host does not see it; None: every sequence has one token."""
        if packed is None:
            return cls(np.ones(sequences, dtype=np.int64), taps, sequences, torch.device("cpu"))
        if packed.device.type == "cpu":
            seqlens = np.bincount(packed[0].numpy(), minlength=sequences)
        else:
            seqlens = np.zeros(sequences, dtype=np.int64)
        layout = cls(seqlens, taps, packed.shape[1], packed.device)
        layout.__dict__["packed"] = packed  # where the property keeps it
        return layout

    def to(self, device: torch.device | str) -> ConvLayout:
        return ConvLayout(self.seqlens, self.taps, self.tokens, torch.device(device))

    @cached_property
    def is_step(self) -> bool:
        """Every sequence has exactly one token: token i is sequence i."""
        return self.tokens == len(self.seqlens) and bool((self.seqlens == 1).all())

    @cached_property
    def bounds(self) -> torch.Tensor:
        """[S + 1] int64 on the CPU: where each sequence's tokens start, and the last one's end."""
        return torch.from_numpy(np.concatenate(([0], np.cumsum(self.seqlens))))

    @cached_property
    def _of_token(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.seqlens)), self.seqlens)

    @cached_property
    def packed(self) -> torch.Tensor:
        """[3, T] int32: a token's sequence, its offset in it, and the tokens of the sequence."""
        of_token = self._of_token
        starts = np.cumsum(self.seqlens) - self.seqlens
        offsets = np.arange(self.tokens) - starts[of_token]
        rows = np.stack((of_token, offsets, self.seqlens[of_token])).astype(np.int32)
        return torch.from_numpy(rows).to(self.device)

    @cached_property
    def padded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Rows in a buffer with K-1 state rows before each sequence: of the tokens [T], of the
        state before each sequence and of its last columns, each [S, K-1]; and the buffer's length.
        """
        history, back = self.taps - 1, np.arange(self.taps - 1)
        sequences = np.arange(len(self.seqlens))
        ends = np.cumsum(self.seqlens) + (sequences + 1) * history
        tokens = np.arange(self.tokens) + (self._of_token + 1) * history
        before = (ends - self.seqlens - history)[:, None] + back
        last = (ends - history)[:, None] + back
        rows = (torch.from_numpy(a).to(self.device) for a in (tokens, before, last))
        return *rows, self.tokens + len(self.seqlens) * history


@triton.jit
def _products(bcx_ptr, row, columns, mask, N, stride, dtype: tl.constexpr):
    """u = B * x at `row` [.., 1] and `columns` [1, ..], rounded to `dtype`, as float32."""
    start = bcx_ptr + row.to(tl.int64) * stride + columns
    b = tl.load(start, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(start + 2 * N, mask=mask, other=0.0).to(tl.float32)
    return (b * x).to(dtype).to(tl.float32)


@triton.jit
def _tap(weight_ptr, back: tl.constexpr, columns, mask, stride_n, stride_k, TAPS: tl.constexpr):
    """The weights of the token `back` before, float32.

    Loaded for every row of the tile alike: those loads meet in the cache, where a row of weights
    loaded once would go to the other threads through shared memory and a barrier.
    """
    start = weight_ptr + columns * stride_n + (TAPS - 1 - back) * stride_k
    return tl.load(start, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _bias(bias_ptr, columns, mask):
    """The sums' first term, float32 in the shape of `mask`."""
    acc = tl.zeros(mask.shape, tl.float32)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    return acc


@triton.jit(do_not_specialize=["T"])
def _step_kernel(
    bcx_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    slot_ptr,
    out_ptr,
    T,
    N,
    stride,
    stride_n,
    stride_k,
    slot_stride,
    state_stride,
    TAPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    token = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T))[:, None]
    columns = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    mask = (token < T) & (columns < N)
    dtype: tl.constexpr = state_ptr.dtype.element_ty
    slot = tl.load(slot_ptr + token, mask=token < T, other=-1).to(tl.int64)
    known = mask & (slot >= 0)
    state = state_ptr + slot * slot_stride + columns
    here = columns + tl.zeros_like(token)  # the weights' columns, once for each row

    u = _products(bcx_ptr, token, columns, mask, N, stride, dtype)
    c = tl.load(bcx_ptr + token.to(tl.int64) * stride + N + columns, mask=mask, other=0.0)
    acc = _bias(bias_ptr, here, mask)
    old_0 = tl.load(state, mask=known, other=0.0)
    weight = _tap(weight_ptr, TAPS - 1, here, mask, stride_n, stride_k, TAPS)
    acc = tl.fma(old_0.to(tl.float32), weight, acc)
    if TAPS > 2:
        old_1 = tl.load(state + state_stride, mask=known, other=0.0)
        weight = _tap(weight_ptr, TAPS - 2, here, mask, stride_n, stride_k, TAPS)
        acc = tl.fma(old_1.to(tl.float32), weight, acc)
    if TAPS > 3:
        old_2 = tl.load(state + 2 * state_stride, mask=known, other=0.0)
        weight = _tap(weight_ptr, TAPS - 3, here, mask, stride_n, stride_k, TAPS)
        acc = tl.fma(old_2.to(tl.float32), weight, acc)
    acc = tl.fma(u, _tap(weight_ptr, 0, here, mask, stride_n, stride_k, TAPS), acc)
    y = (c.to(tl.float32) * acc).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token.to(tl.int64) * N + columns, y, mask=mask)

    tl.debug_barrier()  # every thread has read what is overwritten
    if TAPS > 2:
        tl.store(state, old_1, mask=known)
    if TAPS > 3:
        tl.store(state + state_stride, old_2, mask=known)
    tl.store(state + (TAPS - 2) * state_stride, u.to(dtype), mask=known)


@triton.jit
def _or_state(u, back: tl.constexpr, state, offset, known, state_stride, TAPS: tl.constexpr):
    """`u` of the token `back` before, from the state where that token came before this step."""
    row = state + (TAPS - 1 + offset - back) * state_stride
    old = tl.load(row, mask=known & (offset < back), other=0.0)
    return tl.where(offset >= back, u, old.to(tl.float32))


@triton.jit(do_not_specialize=["T"])
def _chunks_kernel(
    bcx_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    slot_ptr,
    sequence_ptr,
    out_ptr,
    T,
    N,
    stride,
    stride_n,
    stride_k,
    slot_stride,
    state_stride,
    TAPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    STEP: tl.constexpr = BLOCK_T - (TAPS - 2)  # a tile may begin K-2 tokens early
    offset_ptr = sequence_ptr + T
    length_ptr = offset_ptr + T
    start = tl.program_id(0) * STEP
    stop = start + STEP
    at_start = tl.load(offset_ptr + start)
    at_stop = tl.load(offset_ptr + stop, mask=stop < T, other=0)
    begin = tl.where(at_start < TAPS - 1, start - at_start, start)
    end = tl.minimum(tl.where(at_stop < TAPS - 1, stop - at_stop, stop), T)
    token = (begin + tl.arange(0, BLOCK_T))[:, None]
    columns = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    mask = (token < end) & (columns < N)
    dtype: tl.constexpr = state_ptr.dtype.element_ty
    # One sequence through the whole tile, past its first tokens: no state to read or write.
    inside = (at_start >= TAPS - 1) & (at_stop - at_start == STEP)
    offset = at_start + token - begin
    slot = tl.zeros((BLOCK_T, 1), tl.int64) - 1
    if not inside:
        offset = tl.load(offset_ptr + token, mask=token < end, other=TAPS)
        sequence = tl.load(sequence_ptr + token, mask=token < end, other=0)
        slot = tl.load(slot_ptr + sequence, mask=token < end, other=-1).to(tl.int64)
    state = state_ptr + slot * slot_stride + columns
    known = mask & (slot >= 0)
    here = columns + tl.zeros_like(token)  # the weights' columns, once for each row

    # Every load before the first branch, so that they are under way together.
    c = tl.load(bcx_ptr + token.to(tl.int64) * stride + N + columns, mask=mask, other=0.0)
    u_0 = _products(bcx_ptr, token, columns, mask, N, stride, dtype)
    u_1 = _products(bcx_ptr, token - 1, columns, mask & (offset >= 1), N, stride, dtype)
    if TAPS > 2:
        u_2 = _products(bcx_ptr, token - 2, columns, mask & (offset >= 2), N, stride, dtype)
    if TAPS > 3:
        u_3 = _products(bcx_ptr, token - 3, columns, mask & (offset >= 3), N, stride, dtype)
    acc = _bias(bias_ptr, here, mask)
    if not inside:
        u_1 = _or_state(u_1, 1, state, offset, known, state_stride, TAPS)
        if TAPS > 2:
            u_2 = _or_state(u_2, 2, state, offset, known, state_stride, TAPS)
        if TAPS > 3:
            u_3 = _or_state(u_3, 3, state, offset, known, state_stride, TAPS)
    if TAPS > 3:
        acc = tl.fma(u_3, _tap(weight_ptr, 3, here, mask, stride_n, stride_k, TAPS), acc)
    if TAPS > 2:
        acc = tl.fma(u_2, _tap(weight_ptr, 2, here, mask, stride_n, stride_k, TAPS), acc)
    acc = tl.fma(u_1, _tap(weight_ptr, 1, here, mask, stride_n, stride_k, TAPS), acc)
    acc = tl.fma(u_0, _tap(weight_ptr, 0, here, mask, stride_n, stride_k, TAPS), acc)
    y = (c.to(tl.float32) * acc).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token.to(tl.int64) * N + columns, y, mask=mask)

    if not inside:
        begins = known & (offset == 0)
        length = tl.load(length_ptr + token, mask=token < end, other=0)
        for row in tl.static_range(TAPS - 1):
            at = length - (TAPS - 1) + row  # this row's column of u, counted from the first token
            new = _products(bcx_ptr, token + at, columns, begins & (at >= 0), N, stride, dtype)
            from_row = state + (row + length) * state_stride
            old = tl.load(from_row, mask=begins & (at < 0), other=0.0)
            new = tl.where(at >= 0, new, old.to(tl.float32)).to(dtype)
            tl.debug_barrier()  # every thread has read what is overwritten
            tl.store(state + row * state_stride, new, mask=begins)


def short_conv(
    bcx: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    states: torch.Tensor,
    slots: torch.Tensor,
    layout: ConvLayout,
) -> torch.Tensor:
    """`bcx` [T, 3N] -> y [T, N]; `states[slots]` is read, and overwritten with the new state.

    `weight` [N, K] depth-wise taps, oldest first, read fastest when [K, N] in memory; `bias` [N] or
    None; `states` [slots, K-1, N] in the dtype of `bcx`; `slots` [S] int64, without repeats. A
    negative slot (padding) starts from zeros and is not written; a sequence without tokens keeps
    its state.

    Raises ValueError when shapes do not go together.
    """
    width, taps = weight.shape
    if bcx.shape != (layout.tokens, 3 * width):
        raise ValueError(f"B, C, x of {layout.tokens} tokens are not {tuple(bcx.shape)}")
    if taps != layout.taps or states.shape[1:] != (taps - 1, width):
        raise ValueError(f"{taps} taps, a layout for {layout.taps}, states {tuple(states.shape)}")
    if slots.shape != layout.seqlens.shape:
        raise ValueError(f"{len(slots)} slots for {len(layout.seqlens)} sequences")
    if use_triton(bcx):
        return _launch(bcx, weight, bias, states, slots, layout)
    if _native_takes(bcx, weight, bias, states, slots):
        return _native(bcx, weight, bias, states, slots, layout)
    b, c, x = bcx.chunk(3, dim=-1)
    tokens, before, last, rows = layout.padded
    history = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    history.index_copy_(0, tokens, b * x)
    if (slots < 0).any():
        known = slots >= 0
        old = states[slots.clamp(min=0)]
        history[before] = old.masked_fill(~known[:, None, None], 0)
        states[slots[known]] = history[last[known]]
    else:
        history[before] = states[slots]
        states[slots] = history[last]
    history, weight = history.float(), weight.float()
    y = history.index_select(0, tokens) * weight[:, taps - 1]
    for j in range(taps - 1):
        y.addcmul_(history.index_select(0, tokens - (taps - 1 - j)), weight[:, j])
    if bias is not None:
        y += bias.float()
    return c * y.to(c.dtype)


def _native_takes(bcx, weight, bias, states, slots) -> bool:
    """Whether the C kernel runs: it has one dtype for everything, and columns that are adjacent."""
    return (
        use_native(bcx)
        and weight.dtype == states.dtype == bcx.dtype
        and bcx.stride(1) == states.stride(2) == 1
        and (bias is None or (bias.dtype == bcx.dtype and bias.is_contiguous()))
        and slots.dtype == torch.int64
        and slots.is_contiguous()
    )


def _native(bcx, weight, bias, states, slots, layout: ConvLayout) -> torch.Tensor:
    width, taps = weight.shape
    if weight.stride(0) != 1:
        weight = weight.t().contiguous().t()
    out = bcx.new_empty(layout.tokens, width)
    _SHORT_CONV(
        bcx.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        states.data_ptr(),
        slots.data_ptr(),
        layout.bounds.data_ptr(),
        out.data_ptr(),
        len(layout.seqlens),
        width,
        bcx.stride(0),
        weight.stride(1),
        states.stride(0),
        states.stride(1),
        taps,
        is_bf16(bcx),
    )
    return out


def _launch(bcx, weight, bias, states, slots, layout: ConvLayout) -> torch.Tensor:
    tokens, (width, taps) = len(bcx), weight.shape
    if bcx.stride(1) != 1 or states.stride(2) != 1:
        raise ValueError("the last dimensions of bcx and states must be contiguous")
    out = bcx.new_empty(tokens, width)
    shape = (tokens, width, bcx.stride(0), *weight.stride(), *states.stride()[:2], taps)
    if layout.is_step:
        config = lookup("short_conv_step", device_of(bcx), n=width)
        grid = (triton.cdiv(tokens, config["BLOCK_T"]), triton.cdiv(width, config["BLOCK_N"]))
        launch(_step_kernel, grid, bcx, weight, bias, states, slots, out, *shape, **config)
        return out
    config = lookup("short_conv_chunks", device_of(bcx), n=width)
    step = config["BLOCK_T"] - (taps - 2)
    grid = (triton.cdiv(tokens, step), triton.cdiv(width, config["BLOCK_N"]))
    args = (bcx, weight, bias, states, slots, layout.packed, out)
    launch(_chunks_kernel, grid, *args, *shape, **config)
    return out
