"""The `quantization_config` of compressed-tensors, the format of LLM Compressor and vLLM.

Source: github.com/neuralmagic/compressed-tensors, versions up to 0.20. Only its FP8 schemes are
read; `Linear` means every linear layer of the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hala_engine.errors import InputError
from hala_engine.weights.quantization import BLOCK, Scheme

FORMATS = ("float-quantized", "naive-quantized", "mixed-precision")
STRATEGIES = ("tensor", "channel", "block")


def read_schemes(config: dict, where: object, modules: Iterable[str]) -> dict[str, Scheme]:
    """The schemes of those `modules` that `config` quantizes. Raises InputError, naming the file
    `where`, for what is not FP8 or cannot be read."""
    if config.get("quantization_status") != "compressed":
        raise InputError(
            f"{where}: quantization_status is {config.get('quantization_status')!r}, "
            "only finished (compressed) checkpoints can be read"
        )
    for extra in ("sparsity_config", "transform_config"):
        if config.get(extra) and config[extra].get("format") != "dense":
            raise InputError(f"{where}: {extra} is not supported")
    by_target: dict[str, Scheme] = {}
    for name, group in (config.get("config_groups") or {}).items():
        place = f"{where}: config_groups.{name}"
        if not isinstance(group, dict):
            raise InputError(f"{place} is not supported: give its weights and activations in full")
        scheme = _scheme(group, group.get("format") or config.get("format"), place)
        by_target |= dict.fromkeys(group.get("targets") or (), scheme)
    ignored = config.get("ignore") or ()
    found = {}
    for module in modules:
        target = _most_specific(module, by_target)
        if target is not None and _most_specific(module, ignored) is None:
            found[module] = by_target[target]
    return found


def _scheme(group: dict, form: str | None, place: str) -> Scheme:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    strategy = weights.get("strategy")
    if (
        form not in FORMATS
        or not _is_fp8(weights)
        or strategy not in STRATEGIES
        or weights.get("dynamic")
        or group.get("output_activations")
    ):
        raise InputError(
            f"{place}: {_described(weights)} in format {form!r} is not supported; "
            "FP8 weights (float, 8 bits) by tensor, channel or block are"
        )
    if strategy == "block" and _numbers(weights.get("block_structure")) != [BLOCK, BLOCK]:
        raise InputError(
            f"{place}: block_structure {weights.get('block_structure')} is not supported, only "
            f"[{BLOCK}, {BLOCK}] is"
        )
    return Scheme(strategy, _activations(inputs, strategy, place) if inputs else None)


def _activations(inputs: dict, weights: str, place: str) -> str:
    strategy = inputs.get("strategy")
    dynamic = bool(inputs.get("dynamic"))
    if _is_fp8(inputs):
        if strategy == "group" and dynamic and weights == "block":
            if inputs.get("group_size") == BLOCK:
                return "group"
        elif strategy == "tensor" and not dynamic and weights != "block":
            return "tensor"
        elif strategy in ("token", "tensor") and dynamic and weights != "block":
            # A scale a token is at least as fine as one a tensor.
            return "token"
    raise InputError(
        f"{place}: input activations {_described(inputs)} with {weights} weights are not supported"
    )


def _is_fp8(args: dict) -> bool:
    symmetric = args.get("symmetric", True)
    return args.get("type") == "float" and args.get("num_bits") == 8 and bool(symmetric)


def _described(args: dict) -> str:
    dynamic = "dynamic" if args.get("dynamic") else "static"
    return (
        f"{args.get('num_bits')}-bit {args.get('type')} by {args.get('strategy')}, {dynamic}"
        + (f", groups of {args['group_size']}" if args.get("group_size") else "")
        + ("" if args.get("symmetric", True) else ", asymmetric")
    )


def _numbers(structure: object) -> list[int]:
    """[128, 128], which older files spell "128x128"."""
    parts = structure.split("x") if isinstance(structure, str) else structure or []
    return [int(n) for n in parts]


def _most_specific(module: str, targets: Iterable[str]) -> str | None:
    """The target that decides: the module's name, then patterns (alphabetically), then its class,
    as compressed-tensors orders them."""
    targets = sorted(targets)
    if module in targets:
        return module
    for target in targets:
        if target.startswith("re:") and re.match(target[3:], module):
            return target
    return "Linear" if "Linear" in targets else None
