"""What becomes of each tensor of a checkpoint, decided from headers before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from hala_engine.errors import InputError
from hala_engine.quantize.scheme import Fp8Scheme
from hala_engine.weights.checkpoint import Checkpoint
from hala_engine.weights.writer import TensorSpec, file_bytes

METADATA = {"format": "pt"}
OUTPUT = "lm_head"
"""The output projection: a linear module to the readers, tied or not; it stays as it is."""

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Modules that vLLM multiplies as one matrix: all of them quantized, or none."""


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint: what it is, and its first byte in its file."""

    spec: TensorSpec
    start: int


@dataclass(frozen=True)
class FilePlan:
    """One file, of the same name in both directories.

    sources: its tensors in the order of their bytes. quantized: the weights among them, -> their
    module's name. written: the tensors of the new file.
    """

    name: str
    sources: dict[str, Source]
    quantized: dict[str, str]
    written: dict[str, TensorSpec]

    @property
    def bytes(self) -> int:
        return file_bytes(self.written, METADATA)


@dataclass(frozen=True)
class Plan:
    """ignore: linear modules that stay as they are. warnings: lines for the user."""

    scheme: Fp8Scheme
    files: tuple[FilePlan, ...]
    ignore: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def source_bytes(self) -> int:
        return sum(s.spec.bytes for file in self.files for s in file.sources.values())

    @property
    def written_bytes(self) -> int:
        return sum(spec.bytes for file in self.files for spec in file.written.values())

    @property
    def modules(self) -> list[str]:
        return [module for file in self.files for module in file.quantized.values()]


def make_plan(
    checkpoint: Checkpoint,
    linear_modules: Collection[str],
    scheme: Fp8Scheme,
    ignore: Collection[str] = (),
) -> Plan:
    """Decide for each tensor of `checkpoint`. `linear_modules` are the decoder's linear layers,
    `ignore` regular expressions that are searched for in their names.

    Raises InputError for an expression that is not valid and when nothing is left to quantize.
    """
    ignored, warnings = _ignored(linear_modules, ignore)
    refused = {}
    for module in linear_modules:
        entry = checkpoint.entries[f"{module}.weight"]
        reason = scheme.refusal(TensorSpec(entry.dtype, entry.shape))
        if reason and module not in ignored:
            refused[module] = reason
    kept = [module for module in linear_modules if module in ignored or module in refused]
    chosen = [module for module in linear_modules if module not in ignored | refused.keys()]
    if not chosen:
        raise InputError(
            f"{checkpoint.directory}: --scheme {scheme.name} and --ignore leave no linear layer "
            "to quantize"
        )
    warnings += [
        f"{count:,} linear layers stay as they are: {reason} ({first} is the first)"
        for reason, count, first in _grouped(refused)
    ]
    warnings += _fused_apart(set(chosen), kept)
    by_file: dict[str, dict[str, str]] = {}
    for module in chosen:
        weight = f"{module}.weight"
        by_file.setdefault(checkpoint.entries[weight].file, {})[weight] = module
    files = sorted({entry.file for entry in checkpoint.entries.values()})
    return Plan(
        scheme,
        tuple(_plan_file(checkpoint, name, by_file.get(name, {}), scheme) for name in files),
        (*kept, OUTPUT),
        tuple(warnings),
    )


def _ignored(
    linear_modules: Collection[str], ignore: Collection[str]
) -> tuple[set[str], list[str]]:
    """The modules that `ignore` matches, and a warning for each expression that matches none."""
    ignored: set[str] = set()
    warnings = []
    for expression in ignore:
        try:
            pattern = re.compile(expression)
        except re.error as error:
            raise InputError(
                f"--ignore {expression!r} is not a regular expression: {error}"
            ) from None
        matched = {module for module in linear_modules if pattern.search(module)}
        if not matched:
            warnings.append(f"--ignore {expression!r} matches no linear layer")
        ignored |= matched
    return ignored, warnings


def _grouped(refused: dict[str, str]) -> list[tuple[str, int, str]]:
    """Each reason, how many modules have it, and the first of them."""
    reasons: dict[str, list[str]] = {}
    for module, reason in refused.items():
        reasons.setdefault(reason, []).append(module)
    return [(reason, len(modules), modules[0]) for reason, modules in reasons.items()]


def _fused_apart(chosen: set[str], kept: list[str]) -> list[str]:
    """A warning if vLLM fuses matrices of which some are quantized and some are not."""
    apart = []
    for module in kept:
        parent, _, name = module.rpartition(".")
        group = next((group for group in FUSED if name in group), ())
        if any(f"{parent}.{other}" in chosen for other in group):
            apart.append(module)
    if not apart:
        return []
    return [
        f"{len(apart):,} linear layers stay as they are where vLLM fuses them with quantized ones, "
        f"which it will refuse ({apart[0]} is the first)"
    ]


def _plan_file(
    checkpoint: Checkpoint, name: str, quantized: dict[str, str], scheme: Fp8Scheme
) -> FilePlan:
    sources = {
        tensor: Source(TensorSpec(entry.dtype, entry.shape), entry.start)
        for tensor, entry in checkpoint.entries.items()
        if entry.file == name
    }
    sources = dict(sorted(sources.items(), key=lambda item: item[1].start))
    written: dict[str, TensorSpec] = {}
    for tensor, source in sources.items():
        if module := quantized.get(tensor):
            for suffix, spec in scheme.quantized(source.spec).items():
                written[f"{module}.{suffix}"] = spec
        else:
            written[tensor] = source.spec
    return FilePlan(name, sources, quantized, written)
