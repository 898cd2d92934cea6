"""The record of a finished job: enough to know how every row came about, and to make it again."""

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.plan import Plan
from hala_engine.translate.storage import TOOL

_PACKAGES = ("hala-engine", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class ShardRecord:
    """What is kept of a finished shard. `failures`: [row id, column, reason]."""

    file: str
    sha256: str
    bytes: int
    rows: int
    rows_written: int
    flags: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    failures: list[tuple[int, str, str]]
    seconds: float

    @property
    def failed_rows(self) -> int:
        return len({row for row, _, _ in self.failures})


@dataclass(frozen=True)
class Totals:
    """Sums over shards. Tokens are those of every row, repeated texts counted each time."""

    rows: int
    rows_written: int
    failed_rows: int
    flags: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    seconds: float

    @classmethod
    def of(cls, records: Sequence[ShardRecord]) -> "Totals":
        flags: Counter[str] = Counter()
        for record in records:
            flags.update(record.flags)
        return cls(
            rows=sum(record.rows for record in records),
            rows_written=sum(record.rows_written for record in records),
            failed_rows=sum(record.failed_rows for record in records),
            flags=dict(sorted(flags.items())),
            prompt_tokens=sum(record.prompt_tokens for record in records),
            output_tokens=sum(record.output_tokens for record in records),
            seconds=sum(record.seconds for record in records),
        )


def make_manifest(
    config: TranslateConfig, plan: Plan, model_path: Path, records: Sequence[ShardRecord]
) -> dict[str, Any]:
    """The content of manifest.json. `wall_seconds`, `finished` and `seconds` differ run by run."""
    totals = Totals.of(records)
    return {
        "tool": TOOL,
        "versions": {"python": platform.python_version()} | _versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(totals.seconds, 3),
        "model": {"path": str(model_path), "fingerprint": plan.model_fingerprint},
        "config": asdict(config) | {"prompt": config.template, "format": plan.format},
        "inputs": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.bytes, "rows": file.rows}
            for file in plan.files
        ],
        "counts": {
            "rows": totals.rows,
            "rows_written": totals.rows_written,
            "failed_rows": totals.failed_rows,
            "flags": totals.flags,
            "prompt_tokens": totals.prompt_tokens,
            "output_tokens": totals.output_tokens,
        },
        "shards": [
            {
                "file": record.file,
                "sha256": record.sha256,
                "bytes": record.bytes,
                "rows": record.rows_written,
                "seconds": round(record.seconds, 3),
            }
            for record in records
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
