"""Quantization of activations to e4m3 (FP8): a scale for each token or group of columns, found from
the data, or one given scale for the tensor.

    scale = max(|x|) / 448;   q = round(x / scale), at most 448 in absolute value

x is recovered as q * scale, as compressed-tensors' "token", "group" and "tensor" strategies define
it. A row of zeros gets the smallest scale; what is infinite, such as a product that overflowed
before it came here, counts as the largest float32. Floor: read x, write one byte a value and four a
scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hala_kernels.backend import device_of, launch, use_triton
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
SMALLEST_SCALE = 2.0**-100
"""Keeps 1 / scale finite; a value that needs a smaller scale becomes zero."""

GROUP = 128
"""Columns that share a scale in the grouped form, as in fine-grained FP8 checkpoints."""

FLOAT32_MAX = 3.4028234663852886e38

MOST_HELD = 8
"""Chunks of a row that the registers hold, of 8 columns a thread; what exceeds them is read again.
At 9 and 16 warps some versions of Triton spill."""

_MAX = tl.constexpr(FP8_MAX)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
_FLOAT32_MAX = tl.constexpr(FLOAT32_MAX)
_GROUP = tl.constexpr(GROUP)


@triton.jit
def scale_of(largest):
    """The scale of values whose largest magnitude is `largest` (float32)."""
    return tl.maximum(tl.math.div_rn(tl.minimum(largest, _FLOAT32_MAX), _MAX), _SMALLEST_SCALE)


@triton.jit
def to_e4m3(x, scale):
    """`x / scale` in e4m3, saturated; both float32, of shapes that broadcast. NaN stays NaN."""
    scaled = x * tl.math.div_rn(1.0, scale)
    scaled = tl.maximum(scaled, -_MAX, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(scaled, _MAX, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)


@triton.jit
def _chunk(x_ptr, row, columns, rows, N, stride):
    """Columns of some rows, float32 [ROWS, BLOCK], zero outside."""
    inside = (row < rows)[:, None] & (columns < N)[None, :]
    start = row.to(tl.int64)[:, None] * stride
    return tl.load(x_ptr + start + columns[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store_chunk(q_ptr, q, row, columns, rows, N):
    inside = (row < rows)[:, None] & (columns < N)[None, :]
    start = row.to(tl.int64)[:, None] * N
    tl.store(q_ptr + start + columns[None, :], q, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _token_kernel(
    x_ptr,
    q_ptr,
    scale_ptr,
    rows,
    N,
    stride,
    HELD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS rows a program: HELD chunks of each in registers, the rest read twice, the second time
    from the cache."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.arange(0, BLOCK)
    held = ()
    for c in tl.static_range(HELD):
        held += (_chunk(x_ptr, row, c * BLOCK + block, rows, N, stride),)
    largest = tl.zeros((ROWS, BLOCK), tl.float32)
    for c in tl.static_range(HELD):
        largest = tl.maximum(largest, tl.abs(held[c]))
    for start in range(HELD * BLOCK, N, BLOCK):
        more = _chunk(x_ptr, row, start + block, rows, N, stride)
        largest = tl.maximum(largest, tl.abs(more))
    scale = scale_of(tl.max(largest, axis=1))
    tl.store(scale_ptr + row, scale, mask=row < rows)
    for c in tl.static_range(HELD):
        _store_chunk(q_ptr, to_e4m3(held[c], scale[:, None]), row, c * BLOCK + block, rows, N)
    for start in range(HELD * BLOCK, N, BLOCK):
        more = _chunk(x_ptr, row, start + block, rows, N, stride)
        _store_chunk(q_ptr, to_e4m3(more, scale[:, None]), row, start + block, rows, N)


@triton.jit(do_not_specialize=["rows"])
def _tile_kernel(
    x_ptr,
    q_ptr,
    scale_ptr,
    rows,
    N,
    stride,
    STATIC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of rows and columns with the given scale (STATIC) or one for each group."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = _chunk(x_ptr, row, columns, rows, N, stride)
    if STATIC:
        q = to_e4m3(x, tl.load(scale_ptr))
    else:
        by_group = tl.reshape(x, (ROWS, BLOCK // _GROUP, _GROUP))
        scale = scale_of(tl.max(tl.abs(by_group), axis=2))
        group = tl.program_id(1) * (BLOCK // _GROUP) + tl.arange(0, BLOCK // _GROUP)
        groups = tl.cdiv(N, _GROUP)
        at = scale_ptr + row.to(tl.int64)[:, None] * groups + group[None, :]
        tl.store(at, scale, mask=(row < rows)[:, None] & (group < groups)[None, :])
        q = tl.reshape(to_e4m3(by_group, scale[:, :, None]), (ROWS, BLOCK))
    _store_chunk(q_ptr, q, row, columns, rows, N)


def quantize(x: torch.Tensor, group: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [T, N] -> q [T, N] e4m3 and its scales, [T, 1], or [T, ceil(N / 128)] for `group` 128,
    float32. Rows may be strided. Raises ValueError for another group."""
    if not use_triton(x):
        return quantize_reference(x, group)
    check_group(group)
    x, q = _rows_and_result(x)
    rows, width = x.shape
    if group is not None:
        scale = torch.empty(rows, triton.cdiv(width, GROUP), dtype=torch.float32, device=x.device)
        _launch_tiles(x, q, scale, static=False)
        return q, scale
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    config = lookup("quantize_token", device_of(x), n=width)
    held = min(triton.cdiv(width, config["BLOCK"]), MOST_HELD)
    grid = (triton.cdiv(rows, config["ROWS"]),)
    launch(_token_kernel, grid, x, q, scale, rows, width, x.stride(0), HELD=held, **config)
    return q, scale


def quantize_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` [T, N] in e4m3 with the one given positive `scale` ([1] or [1, 1] float32), saturated.

    Rows may be strided. Raises ValueError for a scale of another shape.
    """
    if scale.numel() != 1:
        raise ValueError(f"a static scale is one number, not {tuple(scale.shape)}")
    if not use_triton(x):
        return to_e4m3_reference(x, scale.view(1, 1))
    x, q = _rows_and_result(x)
    _launch_tiles(x, q, scale, static=True)
    return q


def _rows_and_result(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` with adjacent columns (copied if they are not), and a place for its e4m3."""
    x = x if x.stride(1) == 1 else x.contiguous()
    return x, torch.empty(x.shape, dtype=FP8, device=x.device)


def _launch_tiles(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor, static: bool) -> None:
    rows, width = x.shape
    config = lookup("quantize_tile", device_of(x), n=width)
    grid = (triton.cdiv(rows, config["ROWS"]), triton.cdiv(width, config["BLOCK"]))
    launch(_tile_kernel, grid, x, q, scale, rows, width, x.stride(0), STATIC=static, **config)


def check_group(group: int | None) -> None:
    """Raises ValueError unless `group` is None (a scale a token) or 128."""
    if group not in (None, GROUP):
        raise ValueError(f"a group is {GROUP} columns, not {group}")


def to_e4m3_reference(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What `to_e4m3` computes: bit for bit the same."""
    return (x.float() * (1.0 / scale)).clamp(-FP8_MAX, FP8_MAX).to(FP8)


def quantize_reference(
    x: torch.Tensor, group: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [T, N] -> q [T, N] e4m3 and its scales, [T, 1] or [T, ceil(N / 128)] float32."""
    check_group(group)
    tokens, width = x.shape
    size = group or max(width, 1)
    groups = -(-width // size)
    padded = F.pad(x.float(), (0, groups * size - width)).view(tokens, groups, size)
    largest = padded.abs().amax(-1).clamp(max=FLOAT32_MAX)
    scale = (largest / FP8_MAX).clamp(min=SMALLEST_SCALE)
    q = to_e4m3_reference(padded, scale.unsqueeze(-1)).view(tokens, groups * size)[:, :width]
    return q.contiguous(), scale
