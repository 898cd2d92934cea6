"""hala-slerp as users run it, what it leaves behind, and checkpoints that are spoilt by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from hala_tools.slerp.checkpoint import DTYPES
from hala_tools.slerp.cli import run
from tests.tools.slerp.merge_texts import HEAD, MODELS, T

USERS_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
"""Without what the tests set: numpy's BLAS has its threads, to which signals may go as well."""

WARNING = "hala-slerp: warning: "
ERROR = "hala-slerp: error: "


@dataclass(frozen=True)
class Pair:
    """Two model directories, and a place beside them for the result."""

    base: Path
    tuned: Path
    out: Path

    def copied_to(self, directory: Path) -> Pair:
        copies = (
            shutil.copytree(model, directory / model.name) for model in (self.base, self.tuned)
        )
        return Pair(*copies, directory / "out")

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.base, self.tuned, self.out

    def model(self, side: str) -> Path:
        return {"base": self.base, "tuned": self.tuned}[side]


@dataclass(frozen=True)
class Done:
    """What a command that has ended said."""

    code: int
    out: str
    err: str

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith(WARNING)]

    @property
    def others(self) -> list[str]:
        """Lines on stderr that are no warnings."""
        return [line for line in self.err.splitlines() if not line.startswith(WARNING)]


def merge_file(pair: Pair, text: str = MODELS + HEAD + T) -> Path:
    """Where A is the base, and B the tuned model."""
    path = pair.out.parent / "merge.yml"
    names = {"A": pair.base, "B": pair.tuned}
    path.write_text(re.sub(r"\b[AB]\b", lambda match: str(names[match[0]]), text))
    return path


def command(*arguments: object, before: str = "") -> list[str]:
    """Of a process of its own. `before`: Python that it runs first."""
    script = f"{before}\nfrom hala_tools.slerp.cli import main\nmain()"
    start = ["-c", script] if before else ["-m", "hala_tools.slerp"]
    return [sys.executable, *start, *map(str, arguments)]


def run_command(*arguments: object, before: str = "", **options: Any) -> Done:
    """In a process of its own."""
    done = subprocess.run(
        command(*arguments, before=before),
        capture_output=True,
        text=True,
        timeout=60,
        env=USERS_ENVIRONMENT,
        **options,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(capfd: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """In this process, which is quicker, and where parts can be exchanged."""
    capfd.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with patch.object(sys, "argv", ["hala-slerp", *map(str, arguments)]):
            code = run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Done(code, *capfd.readouterr())


def refusal(done: Done, out: Path, code: int = 2) -> str:
    """The one line in which it was refused, once it is seen that nothing of `out` is left."""
    assert done.code == code, done
    assert done.out == ""
    (line,) = done.others
    assert line.startswith(ERROR)
    assert left_over(out) == []
    return line.removeprefix(ERROR)


def left_over(out: Path) -> list[str]:
    """Names of `out` and of what stands for it while it is made."""
    names = (path.name for path in out.parent.iterdir())
    return sorted(name for name in names if name == out.name or name.startswith(f".{out.name}"))


class Stored(NamedTuple):
    """A tensor as a safetensors file has it. `dtype` is the file's name of it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def stored(array: np.ndarray) -> Stored:
    (name,) = (name for name, dtype in DTYPES.items() if dtype == array.dtype)
    return Stored(name, array.shape, array.tobytes())


def with_value(tensor: Stored, place: int, value: float) -> Stored:
    array = np.frombuffer(tensor.data, DTYPES[tensor.dtype]).copy()
    array[place] = value
    return tensor._replace(data=array.tobytes())


@contextmanager
def edited(model: Path, file: str = "model.safetensors") -> Iterator[dict[str, Stored]]:
    """The file's tensors, which are written again at the end of the block."""
    tensors = read_stored(model / file)
    yield tensors
    write_stored(model / file, tensors)


def read_stored(path: Path) -> dict[str, Stored]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: Stored(spec["dtype"], tuple(spec["shape"]), content[start + begin : start + end])
        for name, spec in header.items()
        for begin, end in [spec["data_offsets"]]
    }


def write_stored(path: Path, tensors: dict[str, Stored]) -> None:
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        offsets = [end, end := end + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_json(path: Path, **settings: object) -> None:
    """Settings put into the object that the file holds; None takes one out."""
    values = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
