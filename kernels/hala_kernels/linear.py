"""Linear layers in bfloat16 on a processor with a tile unit (AMX): y = x W^T + b, from weights that
are packed once in the order in which the unit takes them (native/linear.c).

Sums are float32 and run over K in one order, so a row's bits depend neither on the other rows nor
on the number of threads. With few rows the floor is reading the weights, 2 N K bytes.
"""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hala_kernels import native
from hala_kernels.backend import use_native
from hala_kernels.native import INT, POINTER, SIZE, function

_COLUMNS = 32
"""Columns of a weight in a tile: rows of x must be as long as a whole number of them."""

_PANEL = 32
"""Rows of a weight that are packed together."""

_HUGE_PAGE = 1 << 21

_PLAIN = 0
_GATED = {"silu": 1, "gelu_tanh": 2}  # `form` in native/linear.c


def available() -> bool:
    """Whether this processor has the unit, and the system lets this process use it."""
    return _AVAILABLE


_library = native.library()
_AVAILABLE = _library is not None and bool(getattr(_library, "hala_linear_available", bool)())
if _AVAILABLE:
    _linear = function(
        "hala_linear",
        *(POINTER, SIZE, POINTER, POINTER, POINTER, SIZE, POINTER),  # x, packed, b, residual, y
        *(SIZE, SIZE, SIZE, INT),
    )
    _pack = function("hala_linear_pack", POINTER, SIZE, POINTER, SIZE, SIZE, INT)
    _rows = function("hala_linear_rows", POINTER, POINTER, POINTER, SIZE, SIZE)


@dataclass(frozen=True)
class PackedMatrix:
    """A weight [N, K] in tiles. `gated`: N / 2 rows of a gate and as many of an up matrix."""

    tiles: torch.Tensor
    shape: tuple[int, int]
    gated: bool


def can_pack(weight: torch.Tensor) -> bool:
    """Whether products with `weight` [N, K] run here."""
    return _AVAILABLE and weight.dtype == torch.bfloat16 and use_native(weight)


def pack(weight: torch.Tensor, *, gated: bool = False) -> PackedMatrix:
    """A copy of `weight` [N, K] bfloat16 in tiles; `gated`: for `gated_linear`, the gate's rows
    being its upper half and those of up the lower one."""
    weight = weight.detach()
    if weight.stride(1) != 1:
        weight = weight.contiguous()
    N, K = weight.shape
    panels = -(-N // _PANEL) if not gated else -(-N // 2 // (_PANEL // 2))
    tiles = large_empty(panels * _PANEL * _padded(K))
    _pack(weight.data_ptr(), weight.stride(0), tiles.data_ptr(), N, K, gated)
    return PackedMatrix(tiles, (N, K), gated)


def linear(
    x: torch.Tensor,
    weight: PackedMatrix,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x` [M, K] bfloat16 -> x W^T + bias, [M, N], rounded, and then plus `residual` [M, N]."""
    return _product(x, weight, weight.shape[0], bias, residual, _PLAIN)


def gated_linear(
    x: torch.Tensor, weight: PackedMatrix, activation: str, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x` [M, K] bfloat16 -> act(gate) * up of x W^T + bias, [M, N / 2], with the roundings of the
    product, the activation and the multiplication. `activation`: silu or gelu_tanh."""
    return _product(x, weight, weight.shape[0] // 2, bias, None, _GATED[activation])


def rows(weight: PackedMatrix, ids: torch.Tensor) -> torch.Tensor:
    """Rows `ids` [T] int64 of a matrix that is not gated: [T, K]. Raises IndexError for one that
    it has not."""
    N, K = weight.shape
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < N:
        raise IndexError(f"rows {ids.min()} to {ids.max()} of a matrix that has {N}")
    ids = ids.contiguous()
    out = torch.empty(len(ids), K, dtype=torch.bfloat16)
    _rows(weight.tiles.data_ptr(), ids.data_ptr(), out.data_ptr(), len(ids), K)
    return out


def _product(
    x: torch.Tensor,
    weight: PackedMatrix,
    columns: int,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    form: int,
) -> torch.Tensor:
    K = _padded(weight.shape[1])
    if x.shape[1] != weight.shape[1] or weight.gated != (form != _PLAIN):
        raise ValueError(f"x {tuple(x.shape)} does not fit a matrix {weight}")
    if x.shape[1] != K:
        x = F.pad(x, (0, K - x.shape[1]))
    elif x.stride(1) != 1:
        x = x.contiguous()
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    y = x.new_empty(x.shape[0], columns)
    _linear(
        x.data_ptr(),
        x.stride(0),
        weight.tiles.data_ptr(),
        None if bias is None else bias.data_ptr(),
        None if residual is None else residual.data_ptr(),
        0 if residual is None else residual.stride(0),
        y.data_ptr(),
        x.shape[0],
        columns,
        K,
        form,
    )
    return y


def _padded(K: int) -> int:
    return -(-K // _COLUMNS) * _COLUMNS


def large_empty(count: int) -> torch.Tensor:
    """[count] bfloat16 in memory of its own, as far as possible in huge pages, which are read a
    fifth faster; it goes back to the system when the tensor goes."""
    size = 2 * count
    if size < _HUGE_PAGE:
        return torch.empty(count, dtype=torch.bfloat16)
    # Up to a page more, so that one begins where a huge page does; what is not used stays virtual.
    memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = torch.frombuffer(memory, dtype=torch.bfloat16)
    start = -numbers.data_ptr() % _HUGE_PAGE
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE, start, size // _HUGE_PAGE * _HUGE_PAGE)
    return numbers[start // 2 : start // 2 + count]
