"""`quant_method: "fp8"`: fine-grained FP8 (DeepSeek-V3, Qwen3-FP8) and the scale-a-tensor files
that vLLM knows by the same name.

The configurations of such files say little, so their tensors decide: a linear module is quantized
if its weight is e4m3, and the scale beside it says how. Although it may be called
`weight_scale_inv` it is a multiplier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hala_engine.errors import InputError
from hala_engine.weights.checkpoint import Checkpoint, Entry
from hala_engine.weights.quantization import BLOCK, Scheme


def read_schemes(
    config: dict, where: object, modules: Iterable[str], checkpoint: Checkpoint
) -> dict[str, Scheme]:
    """The schemes of those `modules` whose weights are e4m3. Raises InputError, naming the file
    `where`, for blocks of another size than 128 x 128 and unknown activation schemes."""
    block, activations = config.get("weight_block_size"), config.get("activation_scheme", "dynamic")
    if block and list(block) != [BLOCK, BLOCK]:
        raise InputError(
            f"{where}: weight_block_size {block} is not supported, only [{BLOCK}, {BLOCK}] is"
        )
    if activations not in ("dynamic", "static") or (block and activations == "static"):
        raise InputError(
            f"{where}: activation_scheme {activations!r} is not supported with "
            f"weight_block_size {block}"
        )
    entries = checkpoint.entries
    return {
        module: _scheme(module, entries, activations == "static")
        for module in modules
        if _dtype(entries, f"{module}.weight") == "F8_E4M3"
    }


def _scheme(module: str, entries: Mapping[str, Entry], static: bool) -> Scheme:
    scale = next(
        (s for s in ("weight_scale_inv", "weight_scale") if f"{module}.{s}" in entries),
        "weight_scale_inv",
    )
    entry = entries.get(f"{module}.{scale}")
    is_matrix = entry is not None and len(entry.shape) == 2
    # [1, 1] is the scale of one block by one name, and of the whole tensor by the other.
    if is_matrix and (scale == "weight_scale_inv" or max(entry.shape) > 1):
        return Scheme("block", "group", scale)
    names = ("activation_scale", "input_scale")
    name = next((n for n in names if f"{module}.{n}" in entries), names[-1])
    return Scheme("tensor", "tensor" if static else "token", scale, name)


def _dtype(entries: Mapping[str, Entry], name: str) -> str | None:
    return entries[name].dtype if name in entries else None
