"""Triton, where it is installed. Without it the kernels' modules still import and the torch
references run; only a launch asks for it.

Triton comes with CUDA builds of torch. A machine without a GPU has no use for its 280 MB.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

# Products and sums are fused into one rounding, as every triton before 3.10 does unasked.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    AVAILABLE = True
except ImportError:
    AVAILABLE = False

    def _jit(function=None, **options):
        return function if function is not None else _jit_with_options

    def _jit_with_options(function):
        return function

    triton = SimpleNamespace(jit=_jit, cdiv=lambda a, b: -(-a // b))
    tl = SimpleNamespace(constexpr=lambda value: value)
    TensorDescriptor = None

__all__ = ["AVAILABLE", "TensorDescriptor", "tl", "triton"]
