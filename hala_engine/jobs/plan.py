"""The plan of a job: what is read, where each shard begins, what decides the output's bytes.

It is made by one scan of the inputs (scan.py) and saved. While the inputs' sizes and times stay
the same, a later run takes it as it is, so resuming reads nothing that is done.
"""

import base64
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from hala_engine.errors import InputError
from hala_engine.rows.inputs import InputFile, Position

_VERSION = 2
_PLAIN = ("identity", "rows", "format", "model_fingerprint", "context")


@dataclass(frozen=True)
class Plan:
    """A scanned job. `starts` holds the position of each shard's first row, for all shards.

    The model's fingerprint and context are known once it has been loaded. The context is kept
    because a large one is cut to what memory holds, and it decides where long texts are cut.
    """

    identity: dict[str, Any]
    files: list[InputFile]
    rows: int
    starts: list[Position]
    format: str
    schema: pa.Schema
    model_fingerprint: str | None = None
    context: int | None = None

    def shard_size(self, shard: int) -> int:
        """Rows of one shard, all of the same size but the last."""
        size = self.identity["shard_rows"]
        return min(size, self.rows - shard * size)

    def with_model(self, fingerprint: str, context: int) -> "Plan":
        return replace(self, model_fingerprint=fingerprint, context=context)

    def own_shards(self) -> range:
        """The shards that this job makes: all, or part I of N with `--shard I/N`."""
        index, of = self.identity["shard"]
        total = len(self.starts)
        return range((index - 1) * total // of, index * total // of)

    def to_json(self) -> dict[str, Any]:
        schema = base64.b64encode(self.schema.serialize()).decode()
        values = {name: getattr(self, name) for name in _PLAIN}
        return values | {
            "version": _VERSION,
            "files": [asdict(file) for file in self.files],
            "starts": [[start.file, start.offset] for start in self.starts],
            "schema": schema,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Plan":
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(saved["schema"])))
        return cls(
            **{name: saved[name] for name in _PLAIN},
            files=[InputFile(**file) for file in saved["files"]],
            starts=[Position(*start) for start in saved["starts"]],
            schema=schema,
        )


def load_plan(path: Path) -> Plan | None:
    """The plan that an earlier run saved, if there is one."""
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["version"] != _VERSION:
            raise InputError(f"{path}: written by another version; begin anew with --overwrite")
        return Plan.from_json(saved)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; begin anew with --overwrite") from None


def differences(old: Plan, new: Plan) -> list[str]:
    """What keeps `new` from resuming `old`, each as `--flag: old -> new`."""
    found = [
        f"--{name.rpartition('.')[2].replace('_', '-')}: {before!r} -> {now!r}"
        for name in sorted(old.identity | new.identity)
        if (before := old.identity.get(name)) != (now := new.identity.get(name))
    ]
    old_files, new_files = old.files, new.files
    if len(old_files) != len(new_files):
        found.append(f"input: {len(old_files)} -> {len(new_files)} files")
    for was, is_now in zip(old_files, new_files, strict=False):
        if was.content != is_now.content:
            found.append(f"input: {was.describe()} -> {is_now.describe()}")
            break
    return found
