"""What decode and prefill attention share: arguments, pages, and scores in the base of exp2.

The cache is [pages, page_size, Hkv, D]; position p of a sequence lies in row p % page_size of page
page_table[s, p // page_size]. e4m3 caches hold value / scale, with a scale for each KV head.

The kernels' softmax is online: a row keeps its largest score, the sum of 2^(score - largest) and
the so weighted sum of V, and visits the context in blocks that start at absolute multiples of the
block size. A block in which a row sees nothing changes no bit of that row, so neither the batch,
nor how a prompt was chunked, nor a masked or an unmasked visit of a block changes a result.
Products that are added are written as `tl.fma`, lest the compiler fuse them in one loop only.
"""

from __future__ import annotations

import ctypes
import math

import torch

from hala_kernels.backend import use_native
from hala_kernels.native import FLOAT, INT, POINTER, SIZE, function, is_bf16, library
from hala_kernels.quantize import FP8
from hala_kernels.triton_lang import tl, triton

LOWEST = tl.constexpr(-1.0e30)
"""Where the running maximum starts. Finite: with -inf, rows that have seen nothing give NaN."""

_attention = function(
    "hala_attention", *[POINTER] * 7, *[SIZE] * 13, FLOAT, FLOAT, INT, INT, INT
)  # in native/attention.c


def _has_tiles() -> bool:
    if library() is None:
        return False
    asked = library().hala_attention_has_tiles
    asked.restype = ctypes.c_int
    return bool(asked())


HAS_TILES = _has_tiles()
"""Whether the C kernel uses the processor's tile instructions (AMX) for bfloat16."""

_LOG2_E = 1.0 / math.log(2.0)


@triton.jit
def page_numbers(table_ptr, start, low, high, PAGE: tl.constexpr, N: tl.constexpr):
    """The pages of positions start ... start + N - 1, start a multiple of N: a scalar where one
    holds them all, else [N]. Only entries of positions in low ... high - 1 are read.

    Loops carry the pages of the next block: loads that wait for a load in their own iteration get
    half the depth of Triton's pipeline.
    """
    if PAGE >= N:
        position = tl.maximum(start, low)
        needed = position < tl.minimum(high, start + N)
    else:
        position = start + tl.arange(0, N)
        needed = (position >= low) & (position < high)
    return tl.load(table_ptr + position // PAGE, mask=needed, other=0).to(tl.int32)


@triton.jit
def block_offsets(
    pages, start, page_stride, row_stride, PAGE: tl.constexpr, N: tl.constexpr, D: tl.constexpr
):
    """Offsets in the cache of the rows of positions start ... start + N - 1, [N, D] int64."""
    rows = tl.arange(0, N)
    if PAGE >= N:  # one base, and offsets that stay the same from block to block
        base = pages.to(tl.int64) * page_stride + start % PAGE * row_stride
        return base + (rows[:, None] * row_stride + tl.arange(0, D)[None, :])
    in_page = ((start + rows) % PAGE).to(tl.int64)
    offsets = pages.to(tl.int64) * page_stride + in_page * row_stride
    return offsets[:, None] + tl.arange(0, D)[None, :]


@triton.jit
def soft_capped(products, inner, outer):
    """outer * tanh(x) [M, N], for inner [M] = 2 log2(e) x / products."""
    return tl.fma(1.0 / (1.0 + tl.exp2(products * inner[:, None])), -2.0 * outer, outer)


@triton.jit
def softmax_step(peak, total, scores, factors):
    """Takes `scores` [M, N], worth `factors` [M] each, into the largest so far and the sum, [M].

    Returns the new ones, the weights [M, N], and what earlier weights are to be multiplied by.
    """
    largest = tl.maximum(peak, tl.max(scores, 1) * factors)
    weights = tl.exp2(tl.fma(scores, factors[:, None], -largest[:, None]))
    decay = tl.exp2(peak - largest)
    return largest, tl.fma(total, decay, tl.sum(weights, 1)), weights, decay


@triton.jit
def score_factors(q, factor, k_scale_ptr, kv_head):
    """What the products of `q` [M, D] with cached keys are worth, [M] float32."""
    factors = tl.full((q.shape[0],), 1.0, tl.float32) * factor
    if k_scale_ptr is not None:
        factors = factors * tl.load(k_scale_ptr + kv_head)
    return factors


@triton.jit
def add_values(acc, weights, v, q):
    """acc + weights @ v, in q's dtype. For e4m3 `v` in float16 instead of bfloat16: it holds all
    their values and the weights better, and converting takes a third of the instructions."""
    if v.dtype == tl.float8e4nv and q.dtype != tl.float32:
        acc = tl.dot(weights.to(tl.float16), v.to(tl.float16), acc)
    else:
        acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc, input_precision="ieee")
    return acc


def exp2_constants(scale: float, softcap: float | None) -> tuple[float, float | None]:
    """(inner, outer): products times `inner` are scores in the base of exp2; with a soft-cap these
    are the arguments of `soft_capped`."""
    if softcap is None:
        return scale * _LOG2_E, None
    return 2.0 * scale / softcap * _LOG2_E, softcap * _LOG2_E


def check(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    sequences: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> None:
    """Raises ValueError for arguments that no implementation takes."""
    if q.dim() != 3 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape:
        raise ValueError(
            "attention takes q [T, Hq, D] and two caches [pages, page_size, Hkv, D], not "
            f"{tuple(q.shape)}, {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        )
    if q.shape[2] != k_cache.shape[3] or q.shape[1] % k_cache.shape[2]:
        raise ValueError(
            f"{q.shape[1]} query heads of {q.shape[2]} do not share {k_cache.shape[2]} KV heads "
            f"of {k_cache.shape[3]}"
        )
    if len(page_table) != sequences:
        raise ValueError(f"page_table has {len(page_table)} rows for {sequences} sequences")
    if k_cache.dtype != v_cache.dtype or k_cache.dtype not in (q.dtype, FP8):
        raise ValueError(
            f"the caches hold q's dtype {q.dtype} or {FP8}, not {k_cache.dtype}, {v_cache.dtype}"
        )
    for name, scales in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scales is None) == (k_cache.dtype == FP8):
            raise ValueError(f"{name} [Hkv] goes with an e4m3 cache, and only with one")
        if scales is not None and scales.shape != (k_cache.shape[2],):
            raise ValueError(f"{name} has shape {tuple(scales.shape)}, not [{k_cache.shape[2]}]")
    if scale <= 0 or (window is not None and window < 1) or (softcap is not None and softcap <= 0):
        raise ValueError("scale, window and softcap must be positive")


def check_kernel(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """Raises ValueError for what only the Triton kernels do not take."""
    head_dim, page_size = k_cache.shape[3], k_cache.shape[1]
    if head_dim not in (16, 32, 64, 128, 256):
        raise ValueError(f"head dim {head_dim} is not supported: a power of two from 16 to 256 is")
    if page_size & (page_size - 1):
        raise ValueError(f"page size {page_size} is not a power of two")
    if k_cache.stride() != v_cache.stride() or k_cache.stride(3) != 1 or q.stride(2) != 1:
        raise ValueError(
            "both caches need one layout, and their head dim and q's adjacent elements"
        )


def native_takes(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> bool:
    """Whether the C kernel runs: both caches in q's dtype and in one layout, their head dim a
    multiple of 16 up to 256, and its elements and q's adjacent."""
    head_dim = q.shape[2]
    return (
        use_native(q)
        and k_cache.dtype == q.dtype
        and head_dim % 16 == 0
        and head_dim <= 256
        and k_cache.stride() == v_cache.stride()
        and k_cache.stride(3) == q.stride(2) == 1
    )


def attend_natively(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    bounds: torch.Tensor | None,
    context_lens: torch.Tensor,
    longest: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Both attentions in C. `bounds` [S + 1] of the sequences' rows of q, None where each has one;
    `longest` of them."""
    out = q.new_empty(q.shape)
    index = page_table.dtype
    wide = index == torch.int64
    if not wide and index != torch.int32:
        index, wide = torch.int64, True
    page_table = page_table.to(index)
    if page_table.stride(1) != 1:
        page_table = page_table.contiguous()
    # Named, so that they live as long as their pointers are used.
    context_lens = context_lens.to(index).contiguous()
    bounds = None if bounds is None else bounds.to(index).contiguous()
    _attention(
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        out.data_ptr(),
        page_table.data_ptr(),
        None if bounds is None else bounds.data_ptr(),
        context_lens.data_ptr(),
        len(context_lens),
        longest,
        q.shape[1],
        k_cache.shape[2],
        q.shape[2],
        k_cache.shape[1],
        q.stride(0),
        q.stride(1),
        page_table.stride(0),
        *k_cache.stride()[:3],
        window or 0,
        scale,
        softcap or 0.0,
        wide,
        is_bf16(q),
        HAS_TILES and q.dtype == torch.bfloat16,
    )
    return out


def gathered(cache: torch.Tensor, pages: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Whole pages of each sequence, `pages` [B, W] -> [B, W * page_size, Hkv, D]; e4m3 as float32.

    For the references.
    """
    _, page_size, kv_heads, head_dim = cache.shape
    # index_select copies whole pages; indexing with a tensor goes element by element.
    if cache.dtype == FP8:
        held = cache.view(torch.uint8).index_select(0, pages.flatten()).view(FP8).float()
        held = held * scale[:, None]
    else:
        held = cache.index_select(0, pages.flatten())
    return held.view(len(pages), pages.shape[1] * page_size, kv_heads, head_dim)


def attend_explicitly(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """What scaled_dot_product_attention cannot express: with a soft-cap. In float32.

    For the references.
    """
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * (scale / softcap)
    scores = scores.tanh_().mul_(softcap).masked_fill_(~visible, -torch.inf)
    return torch.matmul(scores.softmax(-1), v.float()).to(q.dtype)
