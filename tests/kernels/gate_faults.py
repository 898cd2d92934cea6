"""Kernels that the compile gate must refuse, and what it says of each.

python -m tests.kernels.gate_faults DIR: compiles them for sm_90 with launch tables written in DIR
and prints {table: faults} as JSON. A process of its own, since tests run under the interpreter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from hala_kernels import tuning
from hala_kernels.backend import device_of, launch
from hala_kernels.compile import gate
from hala_kernels.compile.cases import Case, meta
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup


@triton.jit
def _copy(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    here = tl.arange(0, BLOCK)
    tl.store(out_ptr + here, tl.load(x_ptr + here, mask=here < n), mask=here < n)


@triton.jit
def _normalized(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """A whole tile of BLOCK columns in registers, used again after it was summed."""
    here = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + here, mask=here < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + here, x / tl.sum(x) / tl.max(x), mask=here < n)


@triton.jit
def _product(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    rows, columns = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    at = rows[:, None] * n + columns[None, :]
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, n, BLOCK):
        acc = tl.dot(tl.load(x_ptr + at + k), tl.load(out_ptr + at + k), acc)
    tl.store(out_ptr + at, acc.to(tl.bfloat16))


@triton.jit
def _refused(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK > 2**20, "this tile is too small")


def call(kernel, table: str, n: int = 4096):
    def run() -> None:
        x = meta(n)
        launch(kernel, (1,), x, meta(n), n, **lookup(table, device_of(x), n=n))

    return run


def cases(table: str, n: int = 4096) -> Iterator[Case]:
    kernel = {"spilling": _normalized, "shared": _product, "refused": _refused}.get(table)
    demands = {"demanding": r"wgmma\S*e4m3", "satisfied": r"ld\.global"}
    if table == "raising":
        raise RuntimeError("no such model")
    if table == "silent":
        yield Case("none", lambda: torch.empty(1))
    elif table != "without_cases":
        demand = {90: demands[table]} if table in demands else {}
        yield Case("a case", call(kernel or _copy, table, n), demand)


SMALL = {"config": {"BLOCK": 1024, "num_warps": 4}}
TABLES: dict[str, list[dict]] = {
    "good": [SMALL],
    "satisfied": [SMALL],
    "spilling": [{"config": {"BLOCK": 1024, "num_warps": 1, "maxnreg": 32}}],
    "shared": [{"config": {"BLOCK": 128, "num_warps": 8, "num_stages": 4}}],
    "demanding": [SMALL],
    "refused": [SMALL],
    "raising": [SMALL],
    "silent": [SMALL],
    "without_cases": [SMALL],
    "shadowed": [SMALL, {"up_to": {"n": 64}, "config": {"BLOCK": 64, "num_warps": 1}}],
    "unknown_key": [{"up_to": {"m": 64}, **SMALL}],
    "no_default": [],
    "broken": [],
    "device_file": [SMALL],
}


def write(folder: Path) -> None:
    for table, entries in TABLES.items():
        path = folder / table / "default.json"
        path.parent.mkdir(parents=True)
        if table != "no_default":
            text = json.dumps({"source": "a test", "entries": entries})
            path.write_text("{" if table == "broken" else text)
    spoiled = {"config": {"BLOCK": 1024, "NO_SUCH_CONSTANT": 1}}
    content = {"source": "a test", "capability": 90, "entries": [spoiled]}
    (folder / "device_file" / "NVIDIA_H200.json").write_text(json.dumps(content))
    (folder / "orphan").mkdir()


def main(folder: Path) -> None:
    write(folder)
    tuning.CONFIGS = folder
    module = SimpleNamespace(TUNED=tuple(TABLES), cases=cases)
    gate.operations = lambda: {"faulty": module}
    found = {table: gate.run(gate.jobs({table}, [90]), 1).faults for table in TABLES}
    print(json.dumps(found | {"orphans": gate.orphans()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
