"""MergeKit's merge files, as far as they describe a slerp of two language models."""

from __future__ import annotations

import re
from pathlib import Path

from hala_tools.slerp.factor import Rule, Slice
from hala_tools.slerp.merge_t import read_t, write_t
from hala_tools.slerp.merge_yaml import Entry, dump, load, short
from hala_tools.slerp.request import FLOATS, Request, Side

KEYS = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer",
)  # fmt: skip
UNSUPPORTED = "is not supported; remove it"
HUB_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)?@[^@+]+")
LORA = "is a LoRA; merge it into its model first and name the result"


def read_merge_file(path: Path) -> Request:
    """What the merge file asks for. Paths in it stay as written.

    Raises InputError, one line that names the file and the key, for whatever would not be merged
    as the file says.
    """
    top = load(path)
    top.check_keys(KEYS, {"chat_template": UNSUPPORTED})
    method = top.require("merge_method", "write merge_method: slerp")
    if method.text() != "slerp":
        raise method.error(f"is {short(method.value)}; hala-slerp does slerp alone")
    base = _model(top.require("base_model", "name the model that t = 0 gives"))
    rules = read_t(top)
    name, part = _one_of(top, "models", "slices", "modules")
    if name == "modules":
        module = _only_module(part)
        rules = (*read_t(module), *rules)
        name, part = _one_of(module, "models", "slices")
    if name == "models":
        tuned = _tuned(part, base, ("model",))
        slices = (Slice(_some(top, rules)),)
    else:
        tuned, slices = _slices(part, base, rules)
    dtype = _dtype(top, "dtype")
    return Request(
        base,
        tuned,
        slices,
        dtype=_dtype(top, "out_dtype") or dtype,
        rounded_to=dtype,
        tokenizer_source=_tokenizer_source(top, base, tuned),
    )


def _one_of(entry: Entry, *names: str) -> tuple[str, Entry]:
    """Whichever of `names` is there; MergeKit takes an empty one as absent."""
    there = [(name, part) for name in names if (part := entry.at(name)).value]
    if len(there) != 1:
        number = "more than one" if there else "none"
        raise entry.error(f"has {number} of {', '.join(names)}; give exactly one")
    return there[0]


def _only_module(modules: Entry) -> Entry:
    for name in modules.mapping():
        if name != "default":
            raise modules.at(name).error(f"{UNSUPPORTED}; language models have `default` alone")
    module = modules.require("default")
    module.check_keys(("models", "slices", "parameters"))
    return module


def _slices(part: Entry, base: str, rules: tuple[Rule, ...]) -> tuple[str, tuple[Slice, ...]]:
    """The model beside `base`, and the slices, which have to cover the layers in order. What a
    slice's own rules do not match, `rules` decide."""
    slices: list[Slice] = []
    others: list[str] = []
    end = 0
    for entry in part.items():
        entry.check_keys(("sources", "parameters", "base_model"), {"residual_weight": UNSUPPORTED})
        own_base = entry.get("base_model")
        if own_base and _model(own_base) != base:
            raise own_base.error(f"is not {short(base)}, the file's base_model; remove it")
        sources = entry.require("sources")
        others.append(_tuned(sources, base, ("model", "layer_range")))
        if others[-1] != others[0]:
            raise sources.error(
                f"has {short(others[-1])} where slices[0] has {short(others[0])}; "
                "give the same two models in every slice"
            )
        start, stop = _layer_range(sources)
        if start != end:
            raise sources.error(
                f"begins at layer {start}, not at {end}; have the slices cover the layers in "
                "order, each layer once"
            )
        slices.append(Slice(_some(entry, (*read_t(entry), *rules)), start, stop))
        end = stop
    return others[0], tuple(slices)


def _tuned(entries: Entry, base: str, keys: tuple[str, ...]) -> str:
    """The model that is merged with `base`; `keys` are those that each of `entries` may have."""
    models = []
    for entry in entries.items():
        if entry.get("parameters") and entry.at("parameters").value:
            raise entry.at("parameters").error(
                "stands under a model, where MergeKit ignores the parameters of slerp; "
                "move t to `parameters` of the file or slice"
            )
        entry.check_keys((*keys, "parameters"))
        models.append(_model(entry.require("model")))
    # Of `models`, MergeKit adds base_model itself; of `sources`, not.
    missing_base = "layer_range" in keys and base not in models
    if missing_base or len(models) != len(set(models)) or len({base, *models}) != 2:
        raise entries.error(
            f"must be base_model {short(base)} and one other model; it is {short(models)}"
        )
    return next(model for model in models if model != base)


def _layer_range(sources: Entry) -> tuple[int, int]:
    """The layers of a slice; both sources must have the same."""
    ranges = []
    for source in sources.items():
        entry = source.require("layer_range", "write [first, end], e.g. [0, 32]")
        layers = [layer.value for layer in entry.items()]
        if len(layers) != 2 or any(type(layer) is not int for layer in layers):
            raise entry.error(f"must be two whole numbers, not {short(layers)}")
        if not 0 <= layers[0] < layers[1]:
            raise entry.error(f"is {short(layers)}, no layer; write [first, end], e.g. [0, 32]")
        ranges.append(layers)
        if layers != ranges[0]:
            raise entry.error(
                f"is {layers} and the other source's {ranges[0]}; make them the same, "
                "since a layer is merged with itself alone"
            )
    return ranges[0][0], ranges[0][1]


def _model(entry: Entry) -> str:
    """A model's path or hub id, with `@REVISION` if it has one."""
    if isinstance(entry.value, str):
        if "+" in entry.value:
            raise entry.error(f"is {short(entry.value)}; what follows '+' {LORA}")
        return _path(entry)
    entry.check_keys(("model",), {"lora": LORA, "override_architecture": UNSUPPORTED})
    model = entry.require("model")
    if isinstance(model.value, str):
        return _path(model)
    model.check_keys(("path", "revision"))
    path, revision = model.require("path").text(), model.get("revision")
    return f"{path}@{revision.text()}" if revision else path


def _path(entry: Entry) -> str:
    """PATH or PATH@REVISION."""
    if entry.text().count("@") > 1 or not all(entry.text().split("@")):
        raise entry.error(f"is {short(entry.value)}; write PATH or PATH@REVISION")
    return entry.text()


def _some(owner: Entry, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if not rules:
        raise owner.error("has no parameters.t; give a number, e.g. 0.5")
    return rules


def _dtype(top: Entry, name: str) -> str | None:
    entry = top.get(name)
    if entry is None:
        return None
    dtype = entry.text().removeprefix("torch.")
    if dtype not in FLOATS:
        raise entry.error(f"is {short(entry.value)}; choose from {', '.join(FLOATS)}")
    return dtype


def _tokenizer_source(top: Entry, base: str, tuned: str) -> Side | None:
    source, tokenizer = top.get("tokenizer_source"), top.get("tokenizer")
    if tokenizer:
        if source:
            raise tokenizer.error("and tokenizer_source are both there; remove one")
        tokenizer.check_keys(
            ("source",), {"tokens": UNSUPPORTED, "pad_to_multiple_of": UNSUPPORTED}
        )
        source = tokenizer.require("source", "give base or one of the two models")
    if source is None or source.value == "base":
        return "base" if source else None
    model = _model(source)
    if model not in (base, tuned) or source.value == "union":
        raise source.error(f"is {short(model)}; give base, {short(base)} or {short(tuned)}")
    return "base" if model == base else "tuned"


def to_merge_file(request: Request) -> str:
    """The merge file of `request`, for MergeKit and for us: read again, it asks for the same.

    `parity` and `shard_bytes` have no place in it. Several slices must have the numbers of their
    layers.
    """
    pair = [{"model": _reference(model)} for model in (request.base, request.tuned)]
    if [piece.stop for piece in request.slices] == [None]:
        config: dict = {"models": pair}
    else:
        ranges = [{"layer_range": [piece.start, piece.stop]} for piece in request.slices]
        config = {"slices": [{"sources": [model | layers for model in pair]} for layers in ranges]}
    factors = [write_t(piece.rules) for piece in request.slices]
    config |= {"merge_method": "slerp", "base_model": _reference(request.base)}
    if all(factor == factors[0] for factor in factors):
        config["parameters"] = {"t": factors[0]}
    else:
        for piece, factor in zip(config["slices"], factors, strict=True):
            piece["parameters"] = {"t": factor}
    tokenizer = {"base": "base", "tuned": _reference(request.tuned), None: None}
    written = {
        "dtype": request.rounded_to,
        "out_dtype": None if request.dtype == request.rounded_to else request.dtype,
        "tokenizer_source": tokenizer[request.tokenizer_source],
    }
    return dump(config | {key: value for key, value in written.items() if value is not None})


def _reference(model: str) -> object:
    """`model` as text, or spelled out where MergeKit would find a LoRA, a revision or an option in
    its path: it parts the text at '+' and '@', also that of a directory."""
    plain = HUB_REVISION.fullmatch(model) if "@" in model else "+" not in model
    return model if plain and model not in ("base", "union") else {"model": {"path": model}}
