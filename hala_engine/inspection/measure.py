"""What a checkpoint holds and what it needs, from config.json and the weights' headers alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import torch

from hala_engine.batch import CacheSpec
from hala_engine.device import available_memory, choose_device, choose_dtype, multiplies_fp8
from hala_engine.engine import EngineConfig
from hala_engine.errors import InputError
from hala_engine.inspection.report import (
    CacheCost,
    Inspection,
    LayerKind,
    Quantization,
    SequenceCost,
)
from hala_engine.layers.linear import Linear
from hala_engine.models.registry import CheckedModel, check_model
from hala_engine.weights.directory import resolve_model
from hala_engine.weights.quantization import Scheme, share_a_product

SHORT = 1024
"""Tokens of the short sequence that is counted beside that of the whole context."""

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def inspect_model(
    model: str, *, revision: str | None = None, config: EngineConfig | None = None
) -> Inspection:
    """Raises InputError, naming tensor and file, for a checkpoint that could not be loaded."""
    config = config or EngineConfig()
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    directory = resolve_model(model, revision)
    checked = check_model(directory)
    parts, entries = checked.parts, checked.checkpoint.entries
    keeps_fp8 = multiplies_fp8(device)
    loaded = loaded_bytes(checked, dtype, keeps_fp8)
    free = available_memory(device)
    files = {entry.file for entry in entries.values()}
    counts = {name: math.prod(shape) for name, shape in parts.tensors.items()}
    return Inspection(
        model=str(model),
        architecture=checked.raw["model_type"],
        vocabulary=parts.model.config.vocab_size,
        context=parts.model.config.max_positions,
        layers=_layers(parts.model.cache_spec),
        parameters=sum(counts.values()),
        embedding=counts[EMBEDDING],
        output=counts.get(OUTPUT, 0),
        stored=_stored(checked),
        files=len(files),
        disk_bytes=sum((directory / file).stat().st_size for file in files),
        quantization=_quantization(checked),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        keeps_fp8=keeps_fp8,
        loaded_bytes=loaded,
        free_bytes=free,
        memory_utilization=config.memory_utilization,
        max_batch_size=config.max_batch_size,
        cache={
            name: _cache_cost(parts.model, config, name, max(0, free - loaded), dtype, device)
            for name in ("auto", "fp8")
        },
    )


def _layers(spec: CacheSpec) -> tuple[LayerKind, ...]:
    kinds = [LayerKind("conv", spec.conv_layers)] if spec.conv_layers else []
    for window, count in Counter(spec.windows).items():
        kinds.append(LayerKind("full" if window is None else "sliding", count, window))
    return tuple(kinds)


def _stored(checked: CheckedModel) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, entry in checked.checkpoint.entries.items():
        if name in checked.parts.tensors:
            counts[entry.dtype] += math.prod(entry.shape)
    return dict(counts.most_common())


def _quantization(checked: CheckedModel) -> Quantization | None:
    schemes = checked.schemes
    if not schemes:
        return None
    layers = Counter(_describe(scheme) for scheme in schemes.values())
    left = tuple(name for name in checked.parts.linear_modules if name not in schemes)
    return Quantization(dict(layers), left)


def _describe(scheme: Scheme) -> str:
    inputs = {
        None: "inputs as they are",
        "token": "inputs by token",
        "group": "inputs by token and 128 columns",
        "tensor": "inputs with a fixed scale",
    }
    return f"weights by {scheme.weights}, {inputs[scheme.activations]}"


def loaded_bytes(checked: CheckedModel, dtype: torch.dtype, keeps_fp8: bool) -> int:
    """What the weights, and the scales of those that stay FP8, take in memory."""
    parts, total = checked.parts, 0
    for shape in parts.tensors.values():
        total += math.prod(shape) * dtype.itemsize
    if not keeps_fp8:
        return total
    for linear in (m for m in parts.model.modules() if isinstance(m, Linear)):
        if share_a_product([checked.schemes.get(name) for name in linear.names]):
            for name in linear.names:
                shape = parts.tensors[f"{name}.weight"]
                scheme = checked.schemes[name]
                total -= math.prod(shape) * (dtype.itemsize - 1)
                total += _scale_bytes(scheme, *shape)
    return total


def _scale_bytes(scheme: Scheme, rows: int, columns: int) -> int:
    """float32: one for each block, or each row, a scale of the whole matrix being repeated."""
    if scheme.weights == "block":
        return 4 * math.prod(scheme.scale_shapes(rows, columns)[0])
    return 4 * rows


def _cache_cost(
    model: torch.nn.Module,
    config: EngineConfig,
    kv_cache_dtype: str,
    free: int,
    dtype: torch.dtype,
    device: torch.device,
) -> CacheCost:
    """Of `model` when `free` bytes are left beside its weights."""
    config = replace(config, kv_cache_dtype=kv_cache_dtype)
    spec, kv_dtype = model.cache_spec, config.kv_dtype(dtype)
    try:
        plan = config.plan_cache(model, free=free, dtype=dtype, device=device)
        longest, pages = plan.max_model_len, plan.num_pages
    except InputError:
        longest = pages = 0
    page = spec.page_bytes(config.page_size, kv_dtype.itemsize)
    state = spec.state_bytes(dtype.itemsize)
    room = int(free * config.memory_utilization) - page - config.max_snapshots * state
    context = model.config.max_positions
    sequences = []
    for tokens in sorted({min(SHORT, context), context}):
        held = spec.pages(tokens, config.page_size, config.step_tokens(device))
        fit = max(0, room // (held * page + state))
        run = min(config.max_batch_size, fit, pages // held if held else fit)
        sequences.append(SequenceCost(tokens, held * page + state, fit, run))
    # As pages have it: a kind's last group of layers may be smaller than its page, and waste some.
    a_token = spec.page_bytes(1, kv_dtype.itemsize)
    groups = Counter(group.window for group in spec.groups)
    return CacheCost(
        dtype=str(kv_dtype).removeprefix("torch."),
        full_bytes_per_token=groups[None] * a_token,
        window_bytes_per_token={w: n * a_token for w, n in groups.items() if w is not None},
        state_bytes=state,
        max_model_len=longest,
        sequences=tuple(sequences),
    )
