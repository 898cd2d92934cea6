"""A model directory in, an FP8 model directory out, complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from hala_engine.errors import InputError
from hala_engine.models.registry import check_model
from hala_engine.quantize.plan import OUTPUT, Plan, make_plan
from hala_engine.quantize.report import LayerError, Report
from hala_engine.quantize.scheme import SCHEMES
from hala_engine.quantize.stream import Progress, stream
from hala_engine.weights.checkpoint import INDEX
from hala_engine.weights.directory import read_json

CONFIG = "config.json"
OTHER_WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz",
}  # fmt: skip
"""Endings of files that hold weights, and so would not match the new ones."""


def prepare(
    source: Path, target: Path, scheme: str, ignore: Collection[str] = ()
) -> tuple[dict, Plan]:
    """config.json of `source` and what is to be done, after every check that needs no weight.

    Raises InputError: one line that names the tensor and file, or the flag.
    """
    _check_target(source, target)
    if scheme not in SCHEMES:
        raise InputError(f"--scheme {scheme} is not known; choose from {', '.join(SCHEMES)}")
    config = read_json(source / CONFIG)
    if config.get("quantization_config"):
        raise InputError(
            f"{source / CONFIG} has a quantization_config: it is quantized already; "
            "give the bf16 checkpoint"
        )
    model = check_model(source)
    linear_modules = [name for name in model.parts.linear_modules if name != OUTPUT]
    plan = make_plan(model.checkpoint, linear_modules, SCHEMES[scheme], ignore)
    _check_space(source, target, plan)
    return config, plan


def quantize(source: Path, target: Path, config: dict, plan: Plan, progress: Progress) -> Report:
    """Do what `prepare` returned. `target` appears complete, by a rename, or not at all."""
    begin = time.monotonic()
    with _appearing(target) as partial:
        errors = stream(plan, source, partial, progress)
        _copy_other_files(source, partial)
        _write_json(partial / CONFIG, _new_config(config, plan))
        if len(plan.files) > 1 or (source / INDEX).exists():
            _write_json(partial / INDEX, _index(plan))
    shapes = {
        module: file.sources[name].spec.shape
        for file in plan.files
        for name, module in file.quantized.items()
    }
    return Report(
        source=str(source),
        target=str(target),
        scheme=plan.scheme.name,
        source_bytes=plan.source_bytes,
        written_bytes=plan.written_bytes,
        seconds=time.monotonic() - begin,
        layers=tuple(LayerError(m, shapes[m], e.relative) for m, e in errors.items()),
        ignore=plan.ignore,
    )


def _check_target(source: Path, target: Path) -> None:
    if target.resolve() == source.resolve():
        raise InputError(f"{target} is the source; give another directory for the result")
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists; remove it or give another directory for the result")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no directory {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{target}: no permission to write in {target.parent}")


def _check_space(source: Path, target: Path, plan: Plan) -> None:
    need = sum(file.bytes for file in plan.files)
    need += sum(path.stat().st_size for path in _other_files(source))
    free = shutil.disk_usage(target.parent).free
    if need > free:
        raise InputError(
            f"{target}: the result takes {need:,} bytes, its disk has {free:,} free; "
            "free some or give a directory on another disk"
        )


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its name if the block ends well, and goes if not."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had our number
        partial.mkdir()
        yield partial
        _sync(partial)
        partial.rename(target)
    except BaseException:
        # In a thread: the signal that stops us is raised again and again until we have ended, and
        # would cut the removal short.
        removal = threading.Thread(target=shutil.rmtree, args=(partial, True))
        removal.start()
        removal.join()
        raise
    _sync(target.parent)


def _other_files(source: Path) -> list[Path]:
    """What belongs to the model beside its weights: tokenizer, templates, generation settings,
    card. Files alone: directories of a model hold it in other forms."""
    return [
        path
        for path in sorted(source.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.name != CONFIG
        and path.suffix not in OTHER_WEIGHTS
        and not path.name.endswith(".index.json")
    ]


def _copy_other_files(source: Path, target: Path) -> None:
    for path in _other_files(source):
        shutil.copyfile(path, target / path.name)
        _sync(target / path.name)


def _new_config(config: dict, plan: Plan) -> dict:
    quantization = plan.scheme.quantization_config(list(plan.ignore))
    return config | _dtype(config, plan) | {"quantization_config": quantization}


def _dtype(config: dict, plan: Plan) -> dict:
    """The dtype of what is not quantized, if config.json does not say it: transformers would take
    that of the first tensor, which may be FP8 now."""
    if config.get("dtype") or config.get("torch_dtype"):
        return {}
    file = next(file for file in plan.files if file.quantized)
    spec = file.sources[next(iter(file.quantized))].spec
    return {"dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[spec.dtype]}


def _index(plan: Plan) -> dict:
    places = {name: file.name for file in plan.files for name in file.written}
    return {
        "metadata": {"total_size": plan.written_bytes},
        "weight_map": dict(sorted(places.items())),
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Have the file, or the directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
