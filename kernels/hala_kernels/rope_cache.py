"""Per-head norm of q and k, rotary embedding, and the write of K and V into the paged cache.

For each token t with position p and each head of D columns, the columns taken in D/2 pairs (a, b):

    u = w * u / sqrt(mean(u^2) + eps)                             (q and k, when weights are given)
    a' = a * cos(p f_i) - b * sin(p f_i);   b' = b * cos(p f_i) + a * sin(p f_i)
    k_cache[slot[t]], v_cache[slot[t]] = k', v

Pair i is columns (i, i + D/2) in the half-split layout and (2i, 2i+1) in the interleaved one. An
e4m3 cache holds `value / scale`, saturated, with a scale for each KV head; so value = q * scale.
Arithmetic is float32, rounded once; the reference and the C kernel (native/rope_cache.c) also round
what they normed, as transformers does.
Floor: read q, k, v and the two table rows of a token, write q, k, v once each.
"""

from __future__ import annotations

import torch

from hala_kernels.backend import device_of, launch, use_native, use_triton
from hala_kernels.native import FLOAT, INT, POINTER, SIZE, function, is_bf16
from hala_kernels.norm import rms_norm
from hala_kernels.quantize import FP8, to_e4m3, to_e4m3_reference
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

LARGEST_HEAD = 256

_rope_cache = function(
    "hala_rope_cache", *[POINTER] * 11, *[SIZE] * 14, FLOAT, INT, INT, INT
)  # in native/rope_cache.c


@triton.jit
def _load_pairs(row_ptr, valid, D: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The members of the pairs at `row_ptr` [ROWS, 1], float32 [ROWS, PAIRS]; PAIRS >= D / 2.

    Interleaved pairs are loaded as they lie, so that a load stays 16 bytes wide, and then parted.
    """
    if INTERLEAVED:
        columns = tl.arange(0, 2 * PAIRS)[None, :]
        mask = valid if 2 * PAIRS == D else valid & (columns < D)
        both = tl.load(row_ptr + columns, mask=mask, other=0.0)
        a, b = tl.split(tl.reshape(both, (both.shape[0], PAIRS, 2)))
    else:
        columns = tl.arange(0, PAIRS)[None, :]
        mask = valid if 2 * PAIRS == D else valid & (columns < D // 2)
        a = tl.load(row_ptr + columns, mask=mask, other=0.0)
        b = tl.load(row_ptr + D // 2 + columns, mask=mask, other=0.0)
    return a.to(tl.float32), b.to(tl.float32)


@triton.jit
def _store_pairs(
    row_ptr, a, b, valid, scale, D: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Store at `row_ptr` [ROWS, 1] in its dtype, divided by `scale` [ROWS, 1] where it is given."""
    if scale is None:
        a = a.to(row_ptr.dtype.element_ty)
        b = b.to(row_ptr.dtype.element_ty)
    else:
        a = to_e4m3(a, scale)
        b = to_e4m3(b, scale)
    if INTERLEAVED:
        columns = tl.arange(0, 2 * PAIRS)[None, :]
        mask = valid if 2 * PAIRS == D else valid & (columns < D)
        tl.store(row_ptr + columns, tl.reshape(tl.join(a, b), (a.shape[0], 2 * PAIRS)), mask=mask)
    else:
        columns = tl.arange(0, PAIRS)[None, :]
        mask = valid if 2 * PAIRS == D else valid & (columns < D // 2)
        tl.store(row_ptr + columns, a, mask=mask)
        tl.store(row_ptr + D // 2 + columns, b, mask=mask)


@triton.jit
def _norm_and_rotate(
    a,
    b,
    token,
    valid,
    weight_ptr,
    eps,
    cos_ptr,
    sin_ptr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Pairs of the heads of `token` [ROWS, 1].

    The fused products are spelt out: left to the compiler, two builds of this kernel could round
    differently.
    """
    pair = tl.arange(0, PAIRS)
    if weight_ptr is not None:
        if INTERLEAVED:
            column = tl.arange(0, 2 * PAIRS)
            weight = tl.load(weight_ptr + column, mask=column < D, other=0.0)
            weight_a, weight_b = tl.split(tl.reshape(weight, (PAIRS, 2)))
        else:
            weight_a = tl.load(weight_ptr + pair, mask=pair < D // 2, other=0.0)
            weight_b = tl.load(weight_ptr + D // 2 + pair, mask=pair < D // 2, other=0.0)
        mean = tl.sum(tl.fma(a, a, b * b), axis=1) / D
        share = tl.rsqrt(mean + eps)[:, None]
        a = a * share * weight_a.to(tl.float32)[None, :]
        b = b * share * weight_b.to(tl.float32)[None, :]
    if cos_ptr is not None:
        angle = token * (D // 2) + pair[None, :]
        mask = valid if 2 * PAIRS == D else valid & (pair[None, :] < D // 2)
        cos = tl.load(cos_ptr + angle, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + angle, mask=mask, other=0.0)
        a, b = tl.fma(a, cos, -(b * sin)), tl.fma(b, cos, a * sin)
    return a, b


@triton.jit(do_not_specialize=["tokens"])
def _rope_cache_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slot_ptr,
    q_weight_ptr,
    k_weight_ptr,
    k_scale_ptr,
    v_scale_ptr,
    eps,
    tokens,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    k_slot_stride,
    k_slot_head_stride,
    v_slot_stride,
    v_slot_head_stride,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS heads a program, of q or else of k and v, running over the tokens."""
    block = tl.program_id(0)
    q_blocks = tl.cdiv(tokens * Q_HEADS, ROWS)
    if block < q_blocks:
        row = (block * ROWS + tl.arange(0, ROWS))[:, None]
        valid = row < tokens * Q_HEADS
        token = (row // Q_HEADS).to(tl.int64)
        head = row % Q_HEADS
        start = q_ptr + token * q_stride + head * q_head_stride
        a, b = _load_pairs(start, valid, D, PAIRS, INTERLEAVED)
        a, b = _norm_and_rotate(
            a, b, token, valid, q_weight_ptr, eps, cos_ptr, sin_ptr, D, PAIRS, INTERLEAVED
        )
        out = out_ptr + row.to(tl.int64) * D
        _store_pairs(out, a, b, valid, None, D, PAIRS, INTERLEAVED)
    else:
        row = ((block - q_blocks) * ROWS + tl.arange(0, ROWS))[:, None]
        valid = row < tokens * KV_HEADS
        token = (row // KV_HEADS).to(tl.int64)
        head = row % KV_HEADS
        slot = tl.load(slot_ptr + token, mask=valid, other=-1).to(tl.int64)
        k_start = k_ptr + token * k_stride + head * k_head_stride
        v_start = v_ptr + token * v_stride + head * v_head_stride
        a, b = _load_pairs(k_start, valid, D, PAIRS, INTERLEAVED)
        v_a, v_b = _load_pairs(v_start, valid, D, PAIRS, INTERLEAVED)
        k_scale = None
        v_scale = None
        if k_scale_ptr is not None:
            k_scale = tl.load(k_scale_ptr + head)
            v_scale = tl.load(v_scale_ptr + head)
        a, b = _norm_and_rotate(
            a, b, token, valid, k_weight_ptr, eps, cos_ptr, sin_ptr, D, PAIRS, INTERLEAVED
        )
        written = slot >= 0
        k_to = k_cache_ptr + slot * k_slot_stride + head * k_slot_head_stride
        v_to = v_cache_ptr + slot * v_slot_stride + head * v_slot_head_stride
        _store_pairs(k_to, a, b, written, k_scale, D, PAIRS, INTERLEAVED)
        _store_pairs(v_to, v_a, v_b, written, v_scale, D, PAIRS, INTERLEAVED)


def rope_and_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    interleaved: bool = False,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the rotated q, a new tensor [T, Hq, D], and writes k, v to the cache.

    `q` [T, Hq, D], `k` and `v` [T, Hkv, D] bf16 or float32 may be views of one fused projection:
    only the last dimension is contiguous. D is even and at most 256. `cos` and `sin` [T, D/2]
    float32 are the table rows of the tokens' positions; None for no rotation. `k_cache` and
    `v_cache` are [pages, page_size, Hkv, D] in any float dtype, or e4m3 with `k_scale` and
    `v_scale` [Hkv] float32. `slots` [T]: page * page_size + offset, without repeats; a token with a
    negative slot is not written. `q_norm_weight` and `k_norm_weight` are [D] or None.

    Raises ValueError when shapes or dtypes do not go together.
    """
    _check(q, k, v, cos, sin, k_cache, v_cache, slots, k_scale, v_scale)
    if use_triton(q):
        return _launch(
            q, k, v, cos, sin, k_cache, v_cache, slots, q_norm_weight, k_norm_weight, eps,
            interleaved, k_scale, v_scale,
        )  # fmt: skip
    if _native_takes(q, k, v, cos, sin, k_cache, v_cache, slots, q_norm_weight, k_norm_weight):
        return _native(
            q, k, v, cos, sin, k_cache, v_cache, slots, q_norm_weight, k_norm_weight, eps,
            interleaved,
        )  # fmt: skip
    if k_scale is not None:
        k = k.float()
    if q_norm_weight is not None:
        q = rms_norm(q, q_norm_weight, eps)
    if k_norm_weight is not None:
        k = rms_norm(k, k_norm_weight, eps)
    if cos is not None:
        rotate = rotate_interleaved if interleaved else rotate_half_split
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    elif q_norm_weight is None:
        q = q.clone(memory_format=torch.contiguous_format)
    if (slots < 0).any():
        written = slots >= 0
        slots, k, v = slots[written], k[written], v[written]
    _write(k_cache, slots, k, k_scale)
    _write(v_cache, slots, v, v_scale)
    return q


def _native_takes(q, k, v, cos, sin, k_cache, v_cache, slots, q_weight, k_weight) -> bool:
    """Whether the C kernel runs: one dtype for everything, columns adjacent."""
    dtype = q.dtype
    return (
        use_native(q)
        and k.dtype == v.dtype == k_cache.dtype == v_cache.dtype == dtype
        and q.stride(2) == k.stride(2) == v.stride(2) == k_cache.stride(3) == v_cache.stride(3) == 1
        and all(w is None or (w.dtype == dtype and w.is_contiguous()) for w in (q_weight, k_weight))
        and all(t is None or (t.dtype == torch.float32 and t.is_contiguous()) for t in (cos, sin))
        and slots.dtype in (torch.int32, torch.int64)
        and slots.is_contiguous()
    )


def _native(
    q, k, v, cos, sin, k_cache, v_cache, slots, q_weight, k_weight, eps, interleaved
) -> torch.Tensor:
    tokens, heads, dim = q.shape
    out = q.new_empty(tokens, heads, dim)
    tensors = (q, k, v, q_weight, k_weight, cos, sin, out, k_cache, v_cache, slots)
    _rope_cache(
        *(None if t is None else t.data_ptr() for t in tensors),
        tokens,
        heads,
        k.shape[1],
        dim,
        *q.stride()[:2],
        *k.stride()[:2],
        *v.stride()[:2],
        *k_cache.stride()[1:3],
        *v_cache.stride()[1:3],
        eps,
        interleaved,
        slots.dtype == torch.int64,
        is_bf16(q),
    )
    return out


def rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `x` [T, H, D] by the angles of `cos` and `sin` [T, D/2] (float32)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def rotate_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rotate_half_split` for pairs of neighbouring columns."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def _write(
    cache: torch.Tensor, slots: torch.Tensor, x: torch.Tensor, scale: torch.Tensor | None
) -> None:
    rows = cache.flatten(0, 1)
    if scale is not None:  # index_copy_ knows no e4m3
        rows, x = rows.view(torch.uint8), to_e4m3_reference(x, scale[:, None]).view(torch.uint8)
    rows.index_copy_(0, slots, x.to(rows.dtype))


def _check(q, k, v, cos, sin, k_cache, v_cache, slots, k_scale, v_scale) -> None:
    tokens, _, dim = q.shape
    if dim % 2 or not 0 < dim <= LARGEST_HEAD:
        raise ValueError(f"the head dimension is even and at most {LARGEST_HEAD}, not {dim}")
    kv = (tokens, k_cache.shape[2], dim)
    if k.shape != kv or v.shape != kv:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} must be {kv}, as q and cache")
    if v_cache.shape != k_cache.shape or k_cache.shape[3] != dim:
        raise ValueError(
            f"caches of {tuple(k_cache.shape)} and {tuple(v_cache.shape)} for head dimension {dim}"
        )
    if (cos is None) != (sin is None) or (
        cos is not None and not cos.shape == sin.shape == (tokens, dim // 2)
    ):
        raise ValueError(f"cos and sin must both be [{tokens}, {dim // 2}], or both None")
    if slots.shape != (tokens,):
        raise ValueError(f"slots must be [{tokens}], not {tuple(slots.shape)}")
    for cache, scale, name in ((k_cache, k_scale, "k"), (v_cache, v_scale, "v")):
        if (cache.dtype == FP8) != (scale is not None):
            raise ValueError(f"{name}_scale goes with a {name}_cache of e4m3, and only with that")
        if scale is not None and scale.shape != (kv[1],):
            raise ValueError(f"{name}_scale must be [{kv[1]}], not {tuple(scale.shape)}")
        if cache.stride(0) != cache.shape[1] * cache.stride(1) and cache.shape[0] > 1:
            raise ValueError(f"pages of the {name}_cache must follow each other in memory")


def _launch(
    q, k, v, cos, sin, k_cache, v_cache, slots, q_weight, k_weight, eps, interleaved, k_scale,
    v_scale,
) -> torch.Tensor:  # fmt: skip
    tokens, q_heads, dim = q.shape
    kv_heads = k.shape[1]
    rows = {"q": q, "k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache}
    for name, tensor in rows.items():
        if tensor.stride(-1) != 1:
            raise ValueError(f"the last dimension of {name} must be contiguous")
    if cos is not None and not (cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError("cos and sin must be contiguous")
    out = q.new_empty(tokens, q_heads, dim)
    config = lookup("rope_cache", device_of(q), d=dim)
    blocks = triton.cdiv(tokens * q_heads, config["ROWS"])
    blocks += triton.cdiv(tokens * kv_heads, config["ROWS"])
    launch(
        _rope_cache_kernel,
        (blocks,),
        q,
        k,
        v,
        cos,
        sin,
        out,
        k_cache,
        v_cache,
        slots,
        q_weight,
        k_weight,
        k_scale,
        v_scale,
        eps,
        tokens,
        *q.stride()[:2],
        *k.stride()[:2],
        *v.stride()[:2],
        *k_cache.stride()[1:3],
        *v_cache.stride()[1:3],
        q_heads,
        kv_heads,
        dim,
        1 << (dim // 2 - 1).bit_length(),
        interleaved and cos is not None,
        **config,
    )
    return out
