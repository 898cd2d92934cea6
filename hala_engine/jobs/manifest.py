"""The record of a finished job: enough to know how every row came about, and to make it again."""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hala_engine.jobs.command_line import command_line
from hala_engine.jobs.config import JobConfig
from hala_engine.jobs.plan import Plan
from hala_engine.jobs.results import RowResult
from hala_engine.jobs.storage import tool

_PACKAGES = ("hala-engine", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class ShardFile:
    """A file of a finished shard; `file` is its path in the output."""

    file: str
    sha256: str
    bytes: int
    rows: int

    @property
    def folder(self) -> str:
        return self.file.partition("/")[0]


@dataclass(frozen=True)
class ShardRecord:
    """What is kept of a finished shard. `failures`: [row id, column, reason]."""

    files: list[ShardFile]
    rows: int
    flags: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    failures: list[tuple[int, str, str]]
    seconds: float

    @classmethod
    def of(
        cls, files: list[ShardFile], results: Sequence[RowResult], first_id: int, seconds: float
    ) -> "ShardRecord":
        return cls(
            files=files,
            rows=len(results),
            flags=dict(Counter(flag for result in results for flag in result.flags)),
            prompt_tokens=sum(result.prompt_tokens for result in results),
            output_tokens=sum(result.output_tokens for result in results),
            failures=[
                (first_id + index, column, reason)
                for index, result in enumerate(results)
                for column, reason in result.failures
            ],
            seconds=seconds,
        )

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "ShardRecord":
        return cls(**saved | {"files": [ShardFile(**file) for file in saved["files"]]})

    @property
    def failed_rows(self) -> int:
        return len({row for row, _, _ in self.failures})


@dataclass(frozen=True)
class Totals:
    """Sums over shards. Tokens are those of every row, repeated texts counted each time. `written`:
    rows in each folder of the output."""

    rows: int
    written: dict[str, int]
    failed_rows: int
    flags: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    seconds: float

    @classmethod
    def of(cls, records: Iterable[ShardRecord]) -> "Totals":
        records = list(records)
        flags: Counter[str] = Counter()
        written: Counter[str] = Counter()
        for record in records:
            flags.update(record.flags)
            for file in record.files:
                written[file.folder] += file.rows
        return cls(
            rows=sum(record.rows for record in records),
            written=dict(written),
            failed_rows=sum(record.failed_rows for record in records),
            flags=dict(sorted(flags.items())),
            prompt_tokens=sum(record.prompt_tokens for record in records),
            output_tokens=sum(record.output_tokens for record in records),
            seconds=sum(record.seconds for record in records),
        )

    @property
    def rows_written(self) -> int:
        return sum(self.written.values())


def make_manifest(
    config: JobConfig, plan: Plan, model_path: Path, records: Sequence[ShardRecord]
) -> dict[str, Any]:
    """The content of manifest.json. `wall_seconds`, `finished` and `seconds` differ run by run."""
    totals = Totals.of(records)
    return {
        "tool": tool(config.command),
        "command": command_line(config),
        "versions": {"python": platform.python_version()} | _versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(totals.seconds, 3),
        "model": {"path": str(model_path), "fingerprint": plan.model_fingerprint},
        "config": config.recorded() | {"format": plan.format},
        "inputs": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.bytes, "rows": file.rows}
            for file in plan.files
        ],
        "counts": {
            "rows": totals.rows,
            "rows_written": totals.rows_written,
            **{name: totals.written.get(name, 0) for name in config.folders if name != "data"},
            "failed_rows": totals.failed_rows,
            "flags": totals.flags,
            "prompt_tokens": totals.prompt_tokens,
            "output_tokens": totals.output_tokens,
        },
        "shards": [
            asdict(file) | {"seconds": round(record.seconds, 3)}
            for record in records
            for file in record.files
        ],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
