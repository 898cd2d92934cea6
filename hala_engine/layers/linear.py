"""Linear layers over packed tokens, several checkpoint matrices fused into one where they share
their input; bf16, float32 or FP8."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

from hala_engine.layers.quantized import Activation, InputForm, Quantized
from hala_engine.weights.loading import Weights
from hala_engine.weights.matrix import Matrix
from hala_engine.weights.source import Placement
from hala_kernels import linear as tiled
from hala_kernels.fp8_gemm import fp8_gemm
from hala_kernels.quantize import quantize, quantize_static

INVARIANT_ROWS = 64
"""Rows of a batch-invariant product: a GEMM library picks its kernel, and with it the order of the
sum over K, by the number of rows. With that number fixed, a token's result is its own."""

PACK_ROWS = 32
"""Rows that the packed layout is chosen for: those of a decode step."""

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def packed_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`F.linear` with a weight from `pack`."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def pack(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in the blocked layout that oneDNN multiplies from.

    With a plain weight oneDNN lays it out anew in every product, which takes longer than the
    product itself when there are few tokens.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACK_ROWS)


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies such weights on this processor."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def can_tile(weight: torch.Tensor) -> bool:
    """Whether this processor has a tile unit, which our own product is the fastest on."""
    return can_pack(weight) and tiled.can_pack(weight)


def invariant_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    product: Product = F.linear,
) -> torch.Tensor:
    """`product` of `x` [T, K] whose rows do not depend on T, bit for bit."""
    tokens = x.shape[0]
    padded = F.pad(x, (0, 0, 0, -tokens % INVARIANT_ROWS))
    tiles = [product(tile, weight, bias) for tile in padded.split(INVARIANT_ROWS)]
    return torch.cat(tiles)[:tokens] if len(tiles) > 1 else tiles[0][:tokens]


class TiledProduct:
    """x W^T + b on the processor's tile unit, where no row depends on another.

    activation: silu or gelu_tanh; then the rows of W are a gate's and those of an up matrix, and
    the result is act(gate) * up.
    """

    input_form = None

    def __init__(self, weight: torch.Tensor, activation: str | None = None) -> None:
        self.weight = tiled.pack(weight, gated=activation is not None)
        self.activation = activation

    def __call__(
        self, x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        if self.activation is None:
            return tiled.linear(x, self.weight, bias, residual)
        return tiled.gated_linear(x, self.weight, self.activation, bias)


class DenseProduct:
    """x W^T + b with a weight in the model's dtype."""

    input_form = None

    def __init__(self, weight: torch.Tensor, invariant: bool, *, packed: bool) -> None:
        self.weight = pack(weight) if packed else weight
        self._product: Product = packed_linear if packed else F.linear
        self._invariant = invariant

    def __call__(
        self, x: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        if self._invariant:
            y = invariant_linear(x, self.weight, bias, self._product)
        else:
            y = self._product(x, self.weight, bias)
        return y if residual is None else y + residual


def dense_product(
    weight: torch.Tensor, invariant: bool, activation: str | None = None
) -> TiledProduct | DenseProduct:
    """The fastest that the processor has."""
    if can_tile(weight):
        return TiledProduct(weight, activation)
    return DenseProduct(weight, invariant, packed=can_pack(weight))


class Fp8Product:
    """The same with e4m3 weights and an input that is quantized on its way in."""

    def __init__(self, matrix: Matrix, place: Placement) -> None:
        self._pieces = matrix.pieces
        self._heights = [len(piece.weight) for piece in matrix.pieces]
        self._activations = matrix.activations
        self._options = {"out_dtype": place.dtype, "invariant": place.invariant}
        static = matrix.activations.static is not None
        self.input_form = None if static else InputForm(matrix.activations.group)

    def __call__(
        self, x: Activation, bias: torch.Tensor | None, residual: torch.Tensor | None
    ) -> torch.Tensor:
        q, scale = x if isinstance(x, Quantized) else self._quantized(x)
        n = len(self._pieces)
        biases = [None] * n if bias is None else bias.split(self._heights)
        residuals = [None] * n if residual is None else residual.split(self._heights, dim=1)
        parts = [
            fp8_gemm(q, scale, p.weight, p.scale, bias=b, residual=r, **self._options)
            for p, b, r in zip(self._pieces, biases, residuals, strict=True)
        ]
        return parts[0] if n == 1 else torch.cat(parts, dim=1)

    def _quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        static = self._activations.static
        if static is not None:
            return quantize_static(x, static), static
        return quantize(x, self._activations.group)


class Linear(nn.Module):
    """y = x W^T + b for one or more row blocks of W: `parts` names the checkpoint's matrices and
    their heights, in order, e.g. {"q_proj": 2048, "k_proj": 512, "v_proj": 512}.

    activation: of a gate and an up matrix, silu or gelu_tanh: what becomes of them, if the product
    `is_gated`; else its result is left as it is.
    split: under tensor parallelism, which side of W is shared out: "out" (each part's rows, the
    result is this rank's share), "in" (columns, the result is summed over the ranks) or neither.
    """

    def __init__(
        self,
        w: Weights,
        in_features: int,
        parts: dict[str, int],
        *,
        bias: bool = False,
        activation: str | None = None,
        split: str | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(w.prefix + name for name in parts)
        matrix = w.matrix(in_features, parts, bias, split)
        self.bias = matrix.bias
        self._is_partial = split == "in" and w.place.ranks > 1
        if matrix.activations:
            self._product = Fp8Product(matrix, w.place)
        else:
            self._product = dense_product(matrix.pieces[0].weight, w.place.invariant, activation)

    @property
    def input_form(self) -> InputForm | None:
        """How the input is best given; None: as it is."""
        return self._product.input_form

    @property
    def is_gated(self) -> bool:
        """Whether the result is act(gate) * up."""
        return isinstance(self._product, TiledProduct) and self._product.activation is not None

    def forward(self, x: Activation, residual: torch.Tensor | None = None) -> torch.Tensor:
        """`x` [T, K] -> [T, N], plus `residual` [T, N]."""
        if not self._is_partial:
            return self._product(x, self.bias, residual)
        y = self._product(x, None, None)
        torch.distributed.all_reduce(y)
        for addend in (self.bias, residual):
            y = y if addend is None else y + addend
        return y


def common_form(*linears: Linear) -> InputForm | None:
    """The form of an input that several layers take; None where they differ."""
    forms = {linear.input_form for linear in linears}
    return forms.pop() if len(forms) == 1 else None
