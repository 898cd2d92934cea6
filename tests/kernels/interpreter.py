"""Triton's interpreter, with the conversions and products of the hardware.

The interpreter of triton 3.6 to 3.9 cuts float32 to bfloat16 instead of rounding it, loses the
carry of a rounded e4m3, and multiplies bfloat16 operands of a dot as the integers that hold their
bits. A GPU does none of that, so tests of arithmetic need this. That of 3.6 also takes loop bounds
in a way that a current numpy refuses.
"""

from __future__ import annotations

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_TORCH = {
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}


def _convert(data: np.ndarray, source: tl.dtype, target: tl.dtype) -> np.ndarray:
    source_type, target_type = _TORCH[source], _TORCH[target]
    bits = np.ascontiguousarray(data)
    signed = torch.from_numpy(bits.view(f"i{bits.dtype.itemsize}").reshape(-1))
    converted = signed.view(source_type).to(target_type)
    size = converted.element_size()
    holder = {1: torch.int8, 2: torch.int16, 4: torch.int32}[size]
    unsigned = converted.view(holder).numpy().view(f"u{size}")
    return unsigned.reshape(data.shape)


def _dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    def values(handle) -> np.ndarray:
        if handle.dtype.scalar in (tl.bfloat16, tl.float8e4nv, tl.float8e5):
            return _convert(handle.data, handle.dtype.scalar, tl.float32).view(np.float32)
        return handle.data

    product = np.matmul(values(a), values(b), dtype=d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def correct() -> None:
    """Once a process, before the first interpreted launch."""
    convert_theirs = interpreter._convert_float
    patch_theirs = interpreter._patch_lang_tensor

    def convert(data, source, target, rounding_mode):
        if source in _TORCH and target in _TORCH:
            return _convert(data, source, target)
        return convert_theirs(data, source, target, rounding_mode)

    def patch(tensor, scope):
        patch_theirs(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())

    interpreter._convert_float = convert
    interpreter._patch_lang_tensor = patch
    interpreter.InterpreterBuilder.create_dot = _dot
