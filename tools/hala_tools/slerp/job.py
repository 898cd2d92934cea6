"""Two model directories in, a merged one out, complete or not at all."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from hala_tools.slerp.card import model_card
from hala_tools.slerp.checkpoint import CONFIG, Checkpoint
from hala_tools.slerp.directory import appearing, check_space, check_target
from hala_tools.slerp.errors import InputError
from hala_tools.slerp.files import (
    config_differences,
    copy_other_files,
    has_tokenizer,
    meaning,
    merged_config,
    sync,
    tokenizer_differences,
)
from hala_tools.slerp.hub import resolve
from hala_tools.slerp.merge_file import to_merge_file
from hala_tools.slerp.plan import Merge, Plan, make_plan
from hala_tools.slerp.report import Report, TensorReport
from hala_tools.slerp.request import FLOATS, Request, Side
from hala_tools.slerp.stream import Merged, Progress, stream
from hala_tools.slerp.vocabulary import align, tokens_apart
from hala_tools.slerp.writer import Writer, split

README = "README.md"


@dataclass(frozen=True)
class Job:
    """A request that has passed every check that needs no tensor's values. `vocab_size`: of the
    result, None if it is as it was."""

    request: Request
    base: Checkpoint
    tuned: Checkpoint
    plan: Plan
    vocab_size: int | None
    warnings: tuple[str, ...]


def prepare(request: Request, target: Path) -> Job:
    """Raises InputError: one line that names the tensor and file, or the flag."""
    base, tuned = Checkpoint(resolve(request.base)), Checkpoint(resolve(request.tuned))
    for side in (base, tuned):
        if target.resolve() == side.directory.resolve():
            raise InputError(f"{target} is a source; give another directory for the result")
    check_target(target)
    if base.directory.resolve() == tuned.directory.resolve():
        raise InputError(f"BASE and TUNED are both {base.directory}; give two models")
    kinds = base.config.get("model_type"), tuned.config.get("model_type")
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{base.directory} has model_type {kinds[0]}, {tuned.directory} {kinds[1]}; only "
            "models of one architecture can be merged"
        )
    alignment = align(base, tuned, request.tokenizer_source, request.parity)
    plan = make_plan(base, tuned, request, alignment)
    check_space(target, plan.bytes)
    warnings = (*plan.warnings, *_warnings(request, base, tuned))
    vocab_size = alignment.rows.size if alignment is not None else None
    return Job(request, base, tuned, plan, vocab_size, warnings)


def _warnings(request: Request, base: Checkpoint, tuned: Checkpoint) -> list[str]:
    first, second = meaning(base.config), meaning(tuned.config)
    warnings = [
        f"config.json: {name} is {first[name]} in the base and {second[name]} in the tuned model; "
        "the base's is kept"
        for name in config_differences(base.config, tuned.config)
    ]
    owner = tuned if request.tokenizer_source == "tuned" else base
    if not has_tokenizer(owner.directory):
        warnings.append(f"{owner.directory} has no tokenizer; the result will have none")
    if request.tokenizer_source is not None:
        return warnings
    if apart := tokens_apart(base.directory, tuned.directory):
        warnings.append(
            f"{apart:,} ids stand for different tokens in the two tokenizers, and are merged all "
            "the same; --tokenizer-source base or tuned matches rows by token"
        )
    if differing := tokenizer_differences(base.directory, tuned.directory):
        warnings.append(
            f"{', '.join(differing)} differ; the base's are taken (--tokenizer-source tuned takes "
            "the other's)"
        )
    return warnings


def merge(job: Job, target: Path, progress: Progress = lambda _: None) -> Report:
    """Do what `prepare` returned. `target` appears complete, by a rename, or not at all."""
    begin = time.monotonic()
    request, base, tuned, plan = job.request, job.base, job.tuned, job.plan
    source = request.tokenizer_source or "base"
    with appearing(target) as partial:
        shards = split([merge.spec for merge in plan.merges], request.shard_bytes)
        with Writer(partial, shards) as writer:
            merged = stream(plan, writer, progress, parity=request.parity)
        copy_other_files(base.directory, tuned.directory, source, partial)
        _write_json(partial / CONFIG, _config(job, source))
        report = Report(
            base=_text(request.base),
            tuned=_text(request.tuned),
            parity="mergekit" if request.parity else "strict",
            seconds=time.monotonic() - begin,
            bytes_written=plan.bytes,
            tensors=tuple(map(_tensor_report, plan.merges, merged)),
        )
        readme = base.directory / README
        card = model_card(
            name=target.name,
            base=request.base,
            tuned=request.tuned,
            merge_file=to_merge_file(request),
            report=report,
            base_readme=readme if readme.is_file() else None,
        )
        (partial / README).write_text(_text(card), encoding="utf-8")
        sync(partial / README)
    return report


def _config(job: Job, source: Side) -> dict:
    return merged_config(
        job.base.config,
        job.tuned.config,
        source=source,
        dtype=_new_dtype(job),
        vocab_size=job.vocab_size,
    )


def _new_dtype(job: Job) -> str | None:
    """Of the result, if it is not what the base has."""
    if job.request.dtype is not None:
        return job.request.dtype
    matrices = [m for m in job.plan.merges if m.t is not None and len(m.spec.shape) > 1]
    changed = {m.spec.dtype for m in matrices if m.spec.dtype != m.base.dtype}
    return next((name for name, dtype in FLOATS.items() if dtype in changed), None)


def _tensor_report(merge: Merge, merged: Merged) -> TensorReport:
    spec, how = merge.spec, merged.combination
    return TensorReport(
        name=spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        layer=merge.layer,
        t=merge.t,
        cosine=how and how.cosine,
        norms=merged.moments and merged.moments.norms,
        weights=how and how.weights,
        method="copied" if how is None else "linear" if how.linear else "slerp",
    )


def _text(path: str) -> str:
    """With escapes for what is no text: names of files may be any bytes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    sync(path)
