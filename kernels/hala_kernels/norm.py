"""RMS normalisation and LayerNorm over the last dimension, in one kernel with what surrounds
them in a layer: the residual added first, and the result quantized to e4m3 for the next projection.

    h = x + residual
    rms_norm:    y = w * h / sqrt(mean(h^2) + eps)        (Gemma: 1 + w)
    layer_norm:  y = w * (h - mean(h)) / sqrt(mean((h - mean(h))^2) + eps)

h is rounded to the dtype of x before the norm, so that the norm is that of the `total` which the
next layer sees. Gemma's sandwich norms x first: h = residual + rms_norm(x, input_weight).
Floor: read x (and residual), write y (and h), once each: a row stays in registers throughout. One
of more than 12288 columns does not fit there and is read again from the cache (norm_wide.py).

Arithmetic is float32. Where the sum of a row's squares is beyond float32 (magnitudes over about
1e18) the result is zero, as in transformers, never NaN. The Triton kernel rounds y once, at its
end; the reference and the C kernel (native/norm.c) follow transformers, which for RMS norm without
the 1 rounds twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import device_of, launch, use_native, use_triton
from hala_kernels.native import FLOAT, INT, POINTER, SIZE, function, is_bf16
from hala_kernels.norm_kernel import norm_kernel
from hala_kernels.norm_wide import norm_wide_kernel
from hala_kernels.quantize import FP8, GROUP, check_group, quantize_reference
from hala_kernels.triton_lang import triton
from hala_kernels.tuning import lookup

WIDEST_HELD = 12288
"""Columns of a row that the registers of a block hold without spilling."""

_NORM = function("hala_norm", *[POINTER] * 6, SIZE, SIZE, FLOAT, INT, INT)
_RMS, _RMS_PLUS_ONE, _LAYER = range(3)  # `kind` in native/norm.c


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, plus_one: bool = False
) -> torch.Tensor:
    """Normalise `x` [..., N] and scale by `weight` [N], or 1 + weight; in the dtype of `x`.

    `x` may be a view of a wider tensor with up to two strides, such as heads of a fused projection
    [T, H, D]; one that cannot be seen so, or whose columns are not adjacent, is copied.
    Raises ValueError when the shapes do not match.
    """
    _check(x, weight)
    if use_triton(x):
        return _norm(x, weight, eps, plus_one=plus_one)[0]
    if _native_takes(x, weight):
        return _norm_native(x, weight, eps, _RMS_PLUS_ONE if plus_one else _RMS)[0]
    return _rms_norm_reference(x, weight, eps, plus_one)


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    plus_one: bool = False,
    input_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of `x + residual`, and that sum; all [..., N], in the dtype of `x`.

    With `input_weight` [N] the sum is of the residual and `rms_norm(x, input_weight)`.
    """
    _check(x, weight, residual, input_weight)
    if use_triton(x):
        y, _, total = _norm(x, weight, eps, residual, input_weight, plus_one=plus_one)
        return y, total
    if _native_takes(x, weight, input_weight):
        kind = _RMS_PLUS_ONE if plus_one else _RMS
        return _norm_native(x, weight, eps, kind, residual, input_weight)
    total = _total_reference(x, residual, input_weight, eps, plus_one)
    return _rms_norm_reference(total, weight, eps, plus_one), total


def rms_norm_quantize(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    plus_one: bool = False,
    input_weight: torch.Tensor | None = None,
    group: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`add_rms_norm` of `x` [T, N] in e4m3: q [T, N], its scales ([T, 1] float32, or
    [T, ceil(N / 128)] for `group` 128), and the sum [T, N], which is `x` without a residual."""
    _check(x, weight, residual, input_weight)
    check_group(group)
    if use_triton(x):
        return _norm(
            x, weight, eps, residual, input_weight, plus_one=plus_one, quantized=True, group=group
        )
    total = _total_reference(x, residual, input_weight, eps, plus_one)
    y = _float32_norm(total.float(), weight.float() + 1.0 if plus_one else weight, eps)
    return *quantize_reference(y, group), total


def layer_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise `x` [..., N] to mean 0 and variance 1 and scale by `weight` [N]."""
    _check(x, weight)
    if use_triton(x):
        return _norm(x, weight, eps, centred=True)[0]
    if _native_takes(x, weight):
        return _norm_native(x, weight, eps, _LAYER)[0]
    return _layer_norm_reference(x, weight, eps)


def add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The LayerNorm of `x + residual`, and that sum; all [..., N], in the dtype of `x`."""
    _check(x, weight, residual)
    if use_triton(x):
        y, _, total = _norm(x, weight, eps, residual, centred=True)
        return y, total
    if _native_takes(x, weight):
        return _norm_native(x, weight, eps, _LAYER, residual)
    total = x + residual
    return _layer_norm_reference(total, weight, eps), total


def layer_norm_quantize(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    group: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`add_layer_norm` of `x` [T, N] in e4m3, as `rms_norm_quantize` returns it."""
    _check(x, weight, residual)
    check_group(group)
    if use_triton(x):
        return _norm(x, weight, eps, residual, centred=True, quantized=True, group=group)
    total = x if residual is None else x + residual
    return *quantize_reference(_float32_norm(_less_mean(total), weight, eps), group), total


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    residual: torch.Tensor | None = None,
    input_weight: torch.Tensor | None = None,
) -> None:
    width = x.shape[-1]
    for w in (weight, input_weight):
        if w is not None and w.shape != (width,):
            raise ValueError(f"a weight of shape {tuple(w.shape)} for rows of {width} columns")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"a residual {tuple(residual.shape)} {residual.dtype} for x {tuple(x.shape)} {x.dtype}"
        )
    if input_weight is not None and residual is None:
        raise ValueError("input_weight norms x before it is added to a residual: give one")


def _norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    input_weight: torch.Tensor | None = None,
    *,
    centred: bool = False,
    plus_one: bool = False,
    quantized: bool = False,
    group: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The norm, its scales when `quantized`, and the sum with the residual."""
    width = x.shape[-1]
    rows = x.numel() // width
    (x_rows, residual_rows), heads, strides = _rows(x, residual)
    out = torch.empty(x.shape, dtype=FP8 if quantized else x.dtype, device=x.device)
    total = None if residual is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale = None
    if quantized:
        scales = triton.cdiv(width, GROUP) if group else 1
        scale = torch.empty(rows, scales, dtype=torch.float32, device=x.device)
    weights = [w if w is None else w.contiguous() for w in (weight, input_weight)]
    tensors = (x_rows, residual_rows, *weights, out, total, scale)
    kind = {"CENTRED": centred, "PLUS_ONE": plus_one, "GROUPED": group is not None}
    if width > WIDEST_HELD:
        config = lookup("norm_wide", device_of(x), n=width)
        args = (*tensors, width, heads, *strides, eps)
        launch(norm_wide_kernel, (rows,), *args, **kind, **config)
    else:
        config = lookup("norm_quantize" if quantized else "norm", device_of(x), n=width)
        grid = (triton.cdiv(rows, config["ROWS"]),)
        args = (*tensors, rows, width, heads, *strides, eps)
        chunks = triton.cdiv(width, config["BLOCK"])
        launch(norm_kernel, grid, *args, **kind, CHUNKS=chunks, **config)
    return out, scale, x if total is None else total


def _rows(
    x: torch.Tensor, residual: torch.Tensor | None
) -> tuple[list[torch.Tensor | None], int, list[int]]:
    """Both [..., N] tensors as rows [outer, heads, N]; their common `heads`, which is 1 where one
    stride leads to every row of each; and the strides of outer and heads, of x then the residual.
    """
    heads = x.shape[-2] if x.ndim > 2 else 1
    as_rows = [
        None
        if t is None
        else (t if t.stride(-1) == 1 else t.contiguous()).reshape(-1, heads, t.shape[-1])
        for t in (x, residual)
    ]
    if all(t is None or t.stride(0) == heads * t.stride(1) for t in as_rows):
        strides = [(0, 0) if t is None else (t.stride(1), 0) for t in as_rows]
        heads = 1
    else:
        strides = [(0, 0) if t is None else t.stride()[:2] for t in as_rows]
    return as_rows, heads, [stride for pair in strides for stride in pair]


def _native_takes(
    x: torch.Tensor, weight: torch.Tensor, input_weight: torch.Tensor | None = None
) -> bool:
    """Whether the C kernel runs: it has one dtype for everything."""
    return (
        use_native(x)
        and weight.dtype == x.dtype
        and weight.is_contiguous()
        and (
            input_weight is None or (input_weight.dtype == x.dtype and input_weight.is_contiguous())
        )
    )


def _norm_native(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    kind: int,
    residual: torch.Tensor | None = None,
    input_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm, and the sum with the residual (`x` without one)."""
    x = x.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    width = x.shape[-1]
    _NORM(
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        None if input_weight is None else input_weight.data_ptr(),
        out.data_ptr(),
        total.data_ptr(),
        x.numel() // width,
        width,
        eps,
        kind,
        is_bf16(x),
    )
    return out, total


def _rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, plus_one: bool
) -> torch.Tensor:
    """As transformers has it in Lfm2RMSNorm, and in Gemma2RMSNorm for `plus_one`."""
    normalised = F.rms_norm(x.float(), (x.shape[-1],), eps=eps)
    if plus_one:
        return (normalised * (1.0 + weight.float())).to(x.dtype)
    return (normalised.to(x.dtype) * weight).to(x.dtype)


def _total_reference(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    input_weight: torch.Tensor | None,
    eps: float,
    plus_one: bool,
) -> torch.Tensor:
    if residual is None:
        return x
    if input_weight is not None:
        x = _rms_norm_reference(x, input_weight, eps, plus_one)
    return x + residual


def _layer_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As transformers has it in Cohere2LayerNorm, but for a mean beyond float32."""
    return _float32_norm(_less_mean(x), weight, eps).to(x.dtype)


def _less_mean(x: torch.Tensor) -> torch.Tensor:
    mean = x.float().mean(-1, keepdim=True)
    return x.float() - mean.where(mean.isfinite(), 0.0)


def _float32_norm(h: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    inverse = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return (h * inverse * weight.float()).masked_fill(inverse == 0, 0.0)
