"""What is done with each tensor: its two sources, its t, and what it is in the result. Every check
that needs no values is made here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hala_tools.slerp.checkpoint import FLOATING, Checkpoint, Spec, Tensor
from hala_tools.slerp.errors import InputError
from hala_tools.slerp.factor import Rule, Slice
from hala_tools.slerp.request import FLOATS, Request
from hala_tools.slerp.vocabulary import Alignment, is_vocabulary

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
_OUTPUT = "lm_head.weight"


class Source(Protocol):
    """The elements of a tensor of one model, read a part at a time."""

    @property
    def path(self) -> Path: ...

    @property
    def dtype(self) -> str: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...

    def announce(self, start: int, stop: int) -> None: ...


@dataclass(frozen=True)
class Merge:
    """One tensor of the result. `layer` is None outside the layers, `t` where the tensor is not
    floating: then it is copied, once both sources are seen to be equal. `rounded_to`: safetensors'
    name of a dtype to which sources and result are rounded on the way."""

    spec: Spec
    base: Source
    tuned: Source
    layer: int | None
    t: float | None
    rounded_to: str | None = None


@dataclass(frozen=True)
class Plan:
    merges: tuple[Merge, ...]
    warnings: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of the result's tensors."""
        return sum(merge.spec.bytes for merge in self.merges)


def make_plan(
    base: Checkpoint, tuned: Checkpoint, request: Request, alignment: Alignment | None
) -> Plan:
    """Raises InputError, naming the tensor, where the two checkpoints do not fit."""
    names = _common_names(base, tuned)
    layers = _Layers(names)
    layers.check(request.slices)
    merges, used = [], set()
    for name in names:
        first, second = base.tensors[name], tuned.tensors[name]
        sources, shape = _sources(first, second, alignment)
        if _is_floating(first, second):
            t, rule = _factor(name, layers, request.slices)
            used.add(rule)
            both = _wider(first.dtype, second.dtype)
            dtype = FLOATS[request.dtype] if request.dtype else both
            between = FLOATS[request.rounded_to] if request.rounded_to else both
            rounded = between if request.parity and {between} != {dtype, both} else None
            merges.append(Merge(Spec(name, dtype, shape), *sources, layers.of(name), t, rounded))
        else:
            merges.append(Merge(Spec(name, first.dtype, shape), *sources, layers.of(name), None))
    return Plan(tuple(merges), tuple(_unused(request.slices, used, names)))


def _common_names(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """The result's tensors, in the order of the base's files.

    Raises InputError if one model lacks a tensor of the other; an output projection that is the
    embedding written out once more may be absent, and then is left out.
    """
    for one, other in ((base, tuned), (tuned, base)):
        absent = [name for name in one.tensors if name not in other.tensors]
        if absent == [_OUTPUT] and not (one.untied or other.untied):
            _check_output_is_embedding(one)
            absent = []
        if absent == [_OUTPUT]:
            raise InputError(
                f"{one.directory} has an output projection of its own ({_OUTPUT}), "
                f"{other.directory} ties it to the embedding; untie it there first (save "
                f"{_OUTPUT} as a copy of the embedding, with tie_word_embeddings false)"
            )
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise InputError(
                f"{other.directory} lacks the tensor {absent[0]}{more} that {one.directory} has; "
                "both must be checkpoints of one architecture"
            )
    return [name for name in base.tensors if name in tuned.tensors]


def _check_output_is_embedding(model: Checkpoint) -> None:
    output = model.tensors[_OUTPUT]
    embeddings = [t for n, t in model.tensors.items() if n != _OUTPUT and is_vocabulary(n)]
    if not any(_equal(output, embedding) for embedding in embeddings):
        raise InputError(
            f"{output.path}: tensor {_OUTPUT} differs from the embedding, to which "
            "config.json ties it; remove the one or set tie_word_embeddings to false"
        )


def _equal(a: Tensor, b: Tensor, part: int = 1 << 22) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    parts = (slice(start, min(start + part, a.size)) for start in range(0, a.size, part))
    return all(np.array_equal(_bytes(a, here), _bytes(b, here)) for here in parts)


def _bytes(tensor: Tensor, part: slice) -> np.ndarray:
    return tensor.read(part.start, part.stop).view(np.uint8)


def _sources(
    base: Tensor, tuned: Tensor, alignment: Alignment | None
) -> tuple[tuple[Source, Source], tuple[int, ...]]:
    """What is read of the two models for a tensor, and the shape of the result."""
    if alignment is not None and is_vocabulary(base.name):
        return alignment.sources(base, tuned)
    if base.shape == tuned.shape:
        return (base, tuned), base.shape
    if is_vocabulary(base.name) and base.shape[1:] == tuned.shape[1:]:
        raise InputError(
            f"tensor {base.name} has {base.shape[0]:,} rows in {base.path} and "
            f"{tuned.shape[0]:,} in {tuned.path}: the vocabularies differ; give "
            "--tokenizer-source base or tuned, whose vocabulary the result shall have"
        )
    raise InputError(
        f"tensor {base.name} has shape {list(base.shape)} in {base.path} and "
        f"{list(tuned.shape)} in {tuned.path}; only models of the same shape can be merged"
    )


def _is_floating(base: Tensor, tuned: Tensor) -> bool:
    floating = base.dtype in FLOATING, tuned.dtype in FLOATING
    if floating[0] != floating[1] or (not floating[0] and base.dtype != tuned.dtype):
        raise InputError(
            f"tensor {base.name} has dtype {base.dtype} in {base.path} and {tuned.dtype} in "
            f"{tuned.path}; convert one of them"
        )
    return floating[0]


def _wider(first: str, second: str) -> str:
    """The dtype that holds both."""
    if first == second:
        return first
    return "F64" if "F64" in (first, second) else "F32"


def _factor(name: str, layers: _Layers, slices: tuple[Slice, ...]) -> tuple[float, Rule]:
    layer = layers.of(name)
    if layer is None:
        # The embedding belongs to the first slice, all that follows the layers to the last.
        part, position = slices[0] if "embed" in name else slices[-1], 0.0
    else:
        count = layers.count(name)
        part = next(s for s in slices if s.stop is None or layer < s.stop)
        position = part.position(layer, count)
    rule = part.rule(name)
    if rule is None:
        raise InputError(
            f"no t is given for tensor {name}: no filter matches it; add a last value without a "
            "filter"
        )
    return rule.at(position), rule


def _unused(slices: tuple[Slice, ...], used: set[Rule], names: list[str]) -> Iterator[str]:
    """A warning for each filter that decides over no tensor."""
    for rule in dict.fromkeys(rule for piece in slices for rule in piece.rules):
        if rule.filter is None or rule in used:
            continue
        if any(rule.matches(name) for name in names):
            yield f"the filter {rule.filter} decides nothing: earlier filters match its tensors"
        elif parts := _parts(names):
            yield (
                f"the filter {rule.filter} matches no tensor; the parts of a layer are called "
                f"{', '.join(parts)}"
            )
        else:
            yield f"the filter {rule.filter} matches no tensor; the first is called {names[0]}"


def _parts(names: list[str]) -> list[str]:
    """The names that follow the layer's number: self_attn, feed_forward and so on."""
    return sorted({name[m.end() :].split(".")[0] for name in names if (m := _LAYER.match(name))})


class _Layers:
    """Which layer a tensor belongs to, by the first number in its name, and how many there are
    under the same prefix."""

    def __init__(self, names: list[str]) -> None:
        self._places = {name: (m[1], int(m[2])) for name in names if (m := _LAYER.match(name))}
        self._counts: dict[str, int] = defaultdict(int)
        for prefix, layer in self._places.values():
            self._counts[prefix] = max(self._counts[prefix], layer + 1)

    def of(self, name: str) -> int | None:
        return self._places[name][1] if name in self._places else None

    def count(self, name: str) -> int:
        return self._counts[self._places[name][0]]

    def check(self, slices: tuple[Slice, ...]) -> None:
        """Raises InputError unless the slices end where the layers do."""
        stop = slices[-1].stop
        wrong = [count for count in self._counts.values() if stop is not None and stop != count]
        if wrong:
            raise InputError(
                f"layer_range ends at {stop}, the models have {wrong[0]} layers; slices that leave "
                "layers out or add some are not supported"
            )
