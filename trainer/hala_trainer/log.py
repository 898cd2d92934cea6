"""One progress line and one row of metrics.jsonl per logged step."""

import json
import sys
from pathlib import Path
from typing import Any


class RunLog:
    def __init__(self, path: Path, resumed_step: int):
        self.path = path
        _drop_after(path, resumed_step)
        self.file = path.open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def metrics(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def step(self, row: dict[str, Any], total: int, seconds_left: float) -> None:
        self.metrics(row)
        self.say(
            f"step {row['step']}/{total}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
            f"grad {row['grad_norm']:.2f}  {row['tokens_per_s']:,.0f} tokens/s  "
            f"ETA {clock(seconds_left)}"
        )

    def close(self) -> None:
        self.file.close()


def _drop_after(path: Path, step: int) -> None:
    """Steps after the checkpoint are about to be trained, and logged, again."""
    if not path.is_file():
        return
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for row in rows:
        try:
            if json.loads(row)["step"] <= step:
                kept.append(row)
        except (json.JSONDecodeError, KeyError):
            continue  # the half line of a killed run
    tmp = path.with_suffix(".tmp")
    tmp.write_text("".join(kept), encoding="utf-8")
    tmp.replace(path)


def clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
