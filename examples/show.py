"""`python examples/show.py DIR [N]`: source and target lines of a translate job, and its speed.

N lines (default 12), spread evenly over the job's rows.
"""

import json
import sys
from pathlib import Path


def main(directory: Path, count: int = 12) -> None:
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    rows = [
        json.loads(line)
        for shard in sorted(directory.glob("data/part-*.jsonl"))
        for line in shard.read_text(encoding="utf-8").splitlines()
    ]
    shown = [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else rows
    for row in shown:
        print(f"{row['text']}\n    {row.get('text_ar') or '(failed)'}")
    counts, seconds = manifest["counts"], manifest["wall_seconds"]
    print(
        f"\n{counts['rows']} rows in {seconds:.1f} s: {counts['rows'] / seconds:,.1f} rows/s, "
        f"{counts['output_tokens'] / seconds:,.0f} new tokens/s. All of them: {directory}/data"
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
