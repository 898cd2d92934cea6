"""The schemes that can be written, and what config.json says of them.

fp8-dynamic: a weight scale for each output channel; activations per token, at run time.
fp8-block: a weight scale for each 128 x 128 block; activations per token and 128 channels, at run
time.

`quantization_config` holds the fields that LLM Compressor 0.14 writes with compressed-tensors 0.19
for its presets FP8_DYNAMIC and FP8_BLOCK, which vLLM and transformers read.
"""

from __future__ import annotations

from dataclasses import dataclass

from hala_engine.weights.quantization import BLOCK
from hala_engine.weights.writer import TensorSpec


@dataclass(frozen=True)
class Fp8Scheme:
    """block: rows and columns that share a weight scale; None: a scale for each row."""

    name: str
    block: int | None

    def quantized(self, weight: TensorSpec) -> dict[str, TensorSpec]:
        """What replaces a [R, N] weight: suffix of its module's name -> tensor. Scales keep the
        weight's dtype, as compressed-tensors does."""
        rows, columns = weight.shape
        blocks = self.block and (-(-rows // self.block), -(-columns // self.block))
        return {
            "weight": TensorSpec("F8_E4M3", weight.shape),
            "weight_scale": TensorSpec(weight.dtype, blocks or (rows, 1)),
        }

    def refusal(self, weight: TensorSpec) -> str | None:
        """Why compressed-tensors would not load this weight quantized, or None."""
        columns = weight.shape[1]
        if self.block and columns % self.block:
            return f"its {columns} columns are not a multiple of {self.block}"
        return None

    def quantization_config(self, ignore: list[str]) -> dict:
        """For config.json; `ignore` names the linear modules that stay as they are."""
        shared = {"num_bits": 8, "type": "float", "symmetric": True}
        if self.block:
            weights = {"strategy": "block", "block_structure": [self.block, self.block]}
            inputs = {"strategy": "group", "group_size": self.block}
        else:
            weights, inputs = {"strategy": "channel"}, {"strategy": "token"}
        group = {
            "targets": ["Linear"],
            "weights": _arguments(shared | weights, dynamic=False),
            "input_activations": _arguments(shared | inputs, dynamic=True),
            "output_activations": None,
            "format": "float-quantized",
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignore,
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
            "sparsity_config": {},
            "transform_config": {},
        }


def _arguments(given: dict, dynamic: bool) -> dict:
    """All fields of compressed-tensors' QuantizationArgs that its versions from 0.9 on have."""
    unset = ("group_size", "block_structure", "actorder", "observer")
    return dict.fromkeys(unset) | {"observer_kwargs": {}} | given | {"dynamic": dynamic}


SCHEMES = {s.name: s for s in (Fp8Scheme("fp8-dynamic", None), Fp8Scheme("fp8-block", BLOCK))}
