"""The product of FP8 matrices, scaled: every linear layer of an FP8 model.

    out[m, n] = sum_k a[m, k] b[n, k] scale(m, n, k) + bias[n] + residual[m, n]

with a [M, K] activations and b [N, K] weights in e4m3, sums in float32. scale(m, n, k) is a scale a
token times one a channel, either of which may be one for the whole matrix; or, for 128 x 128 blocks
of b and 1 x 128 groups of a, a scale for each.
Floor: for few rows, N K bytes of weights at the memory's bandwidth; for many, 2 M N K FLOPs.

The tensor cores of sm_89 and sm_90 keep a running sum of FP8 products in fewer bits than float32
(triton-lang/triton#2300, deepseek-ai/DeepGEMM). So by default each sum of 128 products is added to
an accumulator in float32; `fast_accum` leaves the whole sum to the tensor cores.
"""

from __future__ import annotations

import torch

from hala_kernels.backend import Device, device_of, use_triton
from hala_kernels.fp8_gemm_large import persistent
from hala_kernels.fp8_gemm_small import streaming
from hala_kernels.fp8_gemm_tile import Operands
from hala_kernels.quantize import FP8, GROUP
from hala_kernels.triton_lang import triton
from hala_kernels.tuning import lookup

FEW_ROWS = 64
"""Up to this many, a product is bound by the weights' bytes on every chip."""

LEAST_FILLED = 0.5
"""Share of the multiprocessors that must have a tile; below it, K is better split."""

OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def fp8_gemm(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    invariant: bool = False,
    fast_accum: bool = False,
) -> torch.Tensor:
    """`a` [M, K] times `b` [N, K] transposed -> [M, N] in `out_dtype`.

    `a` and `b` are float8_e4m3fn; rows may be strided, columns not. Scales are float32 and
    multiply: `a_scale` [M, 1] with `b_scale` [N, 1], either possibly [1, 1]; or `a_scale`
    [M, ceil(K / 128)] with `b_scale` [ceil(N / 128), ceil(K / 128)]. `bias` [N] and `residual`
    [M, N] are added in float32, before the one rounding to `out_dtype`.

    `invariant`: a row of the result has the same bits whatever the other rows and their number.
    `fast_accum`: sums may be kept in the tensor cores' fewer bits where that is faster.

    Raises ValueError for operands whose shape, dtype or layout is another.
    """
    operands = _checked(a, a_scale, b, b_scale, bias, residual, out_dtype)
    if use_triton(a):
        if operands.out.numel():
            _launch(operands, device_of(a), invariant, fast_accum)
        return operands.out
    return _reference(operands)


def _launch(operands: Operands, device: Device, invariant: bool, fast: bool) -> None:
    m, n, k = operands.shape
    block = int(operands.blocked)
    if not operands.aligned:
        streaming(operands, lookup("fp8_gemm_unaligned", device, n=n, k=k), device)
        return
    if invariant:
        # For few rows and for many: nothing of the launch may depend on M.
        streaming(operands, lookup("fp8_gemm_invariant", device, n=n, k=k, block=block), device)
        return
    config = lookup(
        "fp8_gemm",
        device,
        m=m,
        n=n,
        k=k,
        block=block,
        fast=int(fast),
        tma=int(device.has_descriptors and operands.out_aligned),
    )
    full = triton.cdiv(m, config["BLOCK_M"]) * triton.cdiv(n, config["BLOCK_N"])
    if m > FEW_ROWS and full >= LEAST_FILLED * device.multiprocessors:
        persistent(operands, config, device, fast)
    else:
        streaming(operands, lookup("fp8_gemm_small", device, m=m, n=n, k=k, block=block), device)


def _checked(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> Operands:
    for name, x in (("a", a), ("b", b)):
        if x.dtype != FP8 or x.dim() != 2 or (x.shape[1] > 1 and x.stride(1) != 1):
            raise ValueError(
                f"{name} must be float8_e4m3fn of two dimensions with contiguous rows, not "
                f"{x.dtype} {tuple(x.shape)} with strides {x.stride()}"
            )
    (m, k), (n, inner) = a.shape, b.shape
    if k != inner or k == 0:
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} must have the same columns, and some"
        )
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"the result may be bfloat16, float16 or float32, not {out_dtype}")
    if a_scale.dtype != torch.float32 or b_scale.dtype != torch.float32:
        raise ValueError(f"scales must be float32, not {a_scale.dtype} and {b_scale.dtype}")
    a_scale, b_scale = (s.view(1, 1) if s.numel() == 1 else s for s in (a_scale, b_scale))
    groups = -(-k // GROUP)
    blocks = (-(-n // GROUP), groups)
    blocked = b_scale.shape not in ((n, 1), (1, 1)) and b_scale.shape == blocks
    if not blocked and b_scale.shape not in ((n, 1), (1, 1)):
        raise ValueError(
            f"b_scale must be {(n, 1)}, (1, 1) or, for blocks, {blocks}, not {tuple(b_scale.shape)}"
        )
    allowed = ((m, groups),) if blocked else ((m, 1), (1, 1))
    if a_scale.shape not in allowed:
        raise ValueError(
            f"a_scale must be {' or '.join(map(str, allowed))} with b_scale "
            f"{tuple(b_scale.shape)}, not {tuple(a_scale.shape)}"
        )
    if bias is not None and (bias.shape != (n,) or not bias.is_contiguous()):
        raise ValueError(f"bias must be {(n,)} and contiguous, not {tuple(bias.shape)}")
    if residual is not None and (residual.shape != (m, n) or (n > 1 and residual.stride(1) != 1)):
        raise ValueError(
            f"residual must be {(m, n)} with contiguous rows, not {tuple(residual.shape)}"
        )
    out = a.new_empty(m, n, dtype=out_dtype)
    return Operands(a, a_scale, b, b_scale, bias, residual, out, blocked)


def _reference(operands: Operands) -> torch.Tensor:
    a, b = operands.a.float(), operands.b.float()
    if operands.blocked:
        a *= operands.a_scale.repeat_interleave(GROUP, 1)[:, : a.shape[1]]
        by_column = operands.b_scale.repeat_interleave(GROUP, 1)[:, : b.shape[1]]
        b *= by_column.repeat_interleave(GROUP, 0)[: b.shape[0]]
        out = a @ b.t()
    else:
        out = (a @ b.t()).mul_(operands.a_scale).mul_(operands.b_scale.t())
    if operands.bias is not None:
        out += operands.bias.float()
    if operands.residual is not None:
        out += operands.residual.float()
    return operands.out.copy_(out)
