"""What config.json says of quantization, and the tensors that a checkpoint must then hold."""

from __future__ import annotations

import re

from hala_engine.errors import InputError
from hala_engine.weights import compressed_tensors, finegrained_fp8
from hala_engine.weights.checkpoint import Checkpoint, Expected
from hala_engine.weights.quantization import SCALAR_SHAPES, Schemes
from hala_engine.weights.source import Layout


def read_schemes(
    raw: dict, where: object, modules: tuple[str, ...], checkpoint: Checkpoint
) -> Schemes:
    """How the linear `modules` are quantized, by `raw`, the config.json at `where`. Raises
    InputError for a method that is not FP8, and for what the method's reader cannot make out."""
    config = raw.get("quantization_config") or raw.get("compression_config")
    if not config:
        return {}
    try:
        return _read_schemes(config, where, modules, checkpoint)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise InputError(f"{where}: quantization_config is malformed: {error}") from error


def _read_schemes(
    config: dict, where: object, modules: tuple[str, ...], checkpoint: Checkpoint
) -> Schemes:
    method = config.get("quant_method")
    if method == "compressed-tensors":
        return compressed_tensors.read_schemes(config, where, modules)
    if method == "fp8":
        return finegrained_fp8.read_schemes(config, where, modules, checkpoint)
    raise InputError(
        f"{where}: quantization method {method!r} is not supported "
        "(supported: compressed-tensors and fp8)"
    )


def expected_tensors(layout: Layout, schemes: Schemes) -> dict[str, Expected]:
    """Every tensor that a checkpoint of the architecture, so quantized, holds."""
    expected = {name: Expected((shape,)) for name, shape in layout.tensors.items()}
    for name, count in layout.scales.items():
        shapes = (*SCALAR_SHAPES, (count,), (count, 1, 1))
        expected[name] = Expected(shapes, "scale", optional=True)
    for module, scheme in schemes.items():
        rows, columns = layout.tensors[f"{module}.weight"]
        expected[f"{module}.weight"] = Expected(((rows, columns),), "fp8")
        shapes = scheme.scale_shapes(rows, columns)
        expected[f"{module}.{scheme.scale}"] = Expected(shapes, "scale")
        if scheme.activations == "tensor":
            expected[f"{module}.{scheme.input_scale}"] = Expected(SCALAR_SHAPES, "scale")
    return expected
