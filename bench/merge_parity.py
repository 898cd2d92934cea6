"""`python -m bench.merge_parity`: hala-slerp beside MergeKit and SLERP in float64.

Small random LFM2, Gemma2 and Qwen2 pairs are merged by MergeKit and by `hala-slerp --config` after
the same merge file. A row of the table is a case and a mode: plain, or `--parity mergekit`, which
follows MergeKit where its result is not that of the formula alone (float64 then follows it too):

- `dtype` rounds what is read, and the result is rounded to that before `out_dtype`;
- the norm of a tensor that is zero, or nearly, counts as 1.

`ours` and `MergeKit` are the largest errors against float64, 0.5 where every element is rounded
well; `apart` is the largest distance of the two. All are in ulps of the result's dtype, counted at
the size of the terms times 2^-12 where these cancel to less (bfloat16; see
tests/tools/slerp/oracle.py). `same bits` is the share of elements that are equal. Exits with 1 if
`ours` is beyond LIMITS or `apart` beyond LIMITS_APART; the latter does not count in plain mode in
the cases where MergeKit departs from the formula.

`--golden DIR` writes what tests/data/mergekit holds: of the tiniest cases the merge file and
MergeKit's output, and in manifest.json the arguments of `write_pair` that the inputs come from and
the sha256 of their tensors. `--mergekit PYTHON` names an interpreter that has MergeKit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from bench.merge_cases import Case, cases, factor
from tests.tools.slerp import oracle
from tests.tools.slerp.shapes import STORED, fingerprint, read_tensors, write_pair

LIMITS = {"bfloat16": 1, "float16": 1, "float32": 3}
"""Of `ours`, by the result's dtype. Rounding both weights, both products and the sum to float32
makes three ulps at most."""

LIMITS_APART = LIMITS | {"float32": 8}
"""MergeKit has t and the angle in float32 as well."""

PLAIN, PARITY = "plain", "parity"


@dataclass(frozen=True)
class Row:
    """Of one case and mode: the largest errors over all tensors, in ulps."""

    case: str
    mode: str
    tensors: int
    ours: float
    mergekit: float
    distance: float
    same: float
    failed: bool


def compare(case: Case, mode: str, work: Path, ours: Path, mergekit: Path) -> Row:
    """Raises SystemExit if the two outputs differ in names, shapes or dtypes."""
    results = read_tensors(ours), read_tensors(mergekit)
    described = [{n: (a.shape, a.dtype.name) for n, a in r.items()} for r in results]
    for name in sorted(described[0].keys() | described[1].keys()):
        mine, theirs = (tensors.get(name) for tensors in described)
        if mine != theirs:
            raise SystemExit(f"{case.name}, {mode}: {name} is {mine} by ours, {theirs} by MergeKit")
    errors = {"ours": 0.0, "mergekit": 0.0, "distance": 0.0}
    same = total = 0
    for name, exact, dtypes in expected(case, mode, work):
        mine, theirs = results[0][name], results[1][name]
        distance = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)) / exact.ulp(dtypes)
        found = (exact.ulps(mine, dtypes), exact.ulps(theirs, dtypes), distance)
        for key, ulps in zip(errors, found, strict=True):
            errors[key] = max(errors[key], float(np.nan_to_num(ulps, nan=np.inf).max()))
        bits = [np.frombuffer(array.tobytes(), f"u{array.itemsize}") for array in (mine, theirs)]
        same += int((bits[0] == bits[1]).sum())
        total += mine.size
    dtype = dtypes[-1].name
    near = errors["distance"] <= LIMITS_APART[dtype] or (mode == PLAIN and case.departs)
    failed = not (errors["ours"] <= LIMITS[dtype] and near)
    return Row(case.name, mode, len(results[0]), **errors, same=same / total, failed=failed)


def expected(
    case: Case, mode: str, work: Path
) -> Iterator[tuple[str, oracle.Exact, list[np.dtype]]]:
    """Name of each tensor, its values, and the dtypes that they are rounded to in turn."""
    base, tuned = (read_tensors(work / side) for side in ("base", "tuned"))
    parity = mode == PARITY
    read_as, stored_as = (case.config.get(key) for key in ("dtype", "out_dtype"))
    for name, a in base.items():
        b = tuned[name]
        if case.config.get("tokenizer_source"):
            a, b = aligned(name, a, b, case.config["tokenizer_source"])
        if parity and read_as:
            a, b = (array.astype(STORED[read_as][1]) for array in (a, b))
        exact = oracle.slerp(a, b, factor(case, name), right_angles=parity)
        common = np.promote_types(a.dtype, b.dtype) if a.dtype != b.dtype else a.dtype
        last = STORED[stored_as or read_as][1] if stored_as or read_as else common
        yield name, exact, [common, last] if parity and common != last else [last]


def aligned(name: str, a: np.ndarray, b: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the tokens of `source`. The pairs' tokens begin alike, so a row that one lacks comes
    last, and is the other's."""
    if name not in ("model.embed_tokens.weight", "lm_head.weight"):
        return a, b
    rows = len(a if source == "base" else b)
    whole = [np.concatenate([x, other[len(x) :]])[:rows] for x, other in ((a, b), (b, a))]
    return whole[0], whole[1]


def run_mergekit(python: str, work: Path, target: Path) -> None:
    """Merges as work/merge.yml says."""
    command = [python, "-m", "mergekit.scripts.run_yaml", "merge.yml", str(target)]
    _run([*command, "--no-write-model-card"], work)


def run_ours(work: Path, target: Path, mode: str) -> None:
    command = [sys.executable, "-m", "hala_tools.slerp", "--config", "merge.yml", str(target)]
    _run(command + (["--parity", "mergekit"] if mode == PARITY else []), work)


def _run(command: list[str], work: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise SystemExit(f"{' '.join(command)} failed: {lines[-1] if lines else done.returncode}")


def versions(python: str) -> dict[str, str]:
    """Of MergeKit and what it computes with; ends the program if `python` has no MergeKit."""
    code = (
        "import json; from importlib.metadata import version; "
        "print(json.dumps({p: version(p) for p in ('mergekit', 'torch', 'numpy')}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} has no MergeKit; name one that has with --mergekit PYTHON")
    return json.loads(done.stdout)


def show(rows: list[Row], console: Console) -> None:
    columns = ("case", "mode", "tensors", "ours", "MergeKit", "apart", "same bits")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        errors = (f"{ulps:.4g}" for ulps in (row.ours, row.mergekit, row.distance))
        table.add_row(row.case, row.mode, str(row.tensors), *errors, f"{row.same:.2%}")
    console.print(table)
    failed = [f"{row.case} ({row.mode})" for row in rows if row.failed]
    console.print(f"beyond the limits: {', '.join(failed)}" if failed else "all within the limits")


def compare_all(python: str) -> list[Row]:
    rows = []
    for case in cases():
        with merged_by_mergekit(case, python) as (work, theirs):
            for mode in (PLAIN, PARITY):
                run_ours(work, work / mode, mode)
                rows.append(compare(case, mode, work, work / mode, theirs))
    return rows


def write_goldens(directory: Path, python: str, made_with: dict[str, str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    entries = {}
    for case in cases():
        if not case.golden:
            continue
        with merged_by_mergekit(case, python) as (work, theirs):
            file = directory / f"{case.name}.safetensors"
            file.write_bytes((theirs / "model.safetensors").read_bytes())
            shutil.copy(work / "merge.yml", file.with_suffix(".yml"))
            entries[case.name] = {
                "inputs": {"kind": case.kind, **case.inputs},
                "departs": case.departs,
                "sha256": {side: fingerprint(work / side) for side in ("base", "tuned")},
            }
    made_by = "python -m bench.merge_parity --golden DIR"
    manifest = {"made_by": made_by, "versions": made_with, "cases": entries}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


@contextmanager
def merged_by_mergekit(case: Case, python: str) -> Iterator[tuple[Path, Path]]:
    """A directory with base, tuned and merge.yml, and the one that MergeKit wrote."""
    print(case.name, file=sys.stderr)
    with TemporaryDirectory() as directory:
        work = Path(directory)
        write_pair(work, case.kind, **case.inputs)
        (work / "merge.yml").write_text(yaml.safe_dump(case.config, sort_keys=False))
        run_mergekit(python, work, work / "mergekit")
        yield work, work / "mergekit"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.merge_parity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mergekit", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="write the tests' data here")
    options = parser.parse_args(arguments)
    made_with = versions(options.mergekit)
    if options.golden:
        write_goldens(options.golden, options.mergekit, made_with)
        return 0
    rows = compare_all(options.mergekit)
    show(rows, Console())
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
