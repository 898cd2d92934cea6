"""What a judge's job wrote."""

import json
from pathlib import Path

import pyarrow.parquet as pq


def read_rows(output, folder, format="jsonl"):
    """All rows of accepted/ or rejected/, in the order of the shards."""
    rows = []
    for path in sorted((Path(output) / folder).glob(f"part-*.{format}")):
        if format == "parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def read_failures(output):
    return [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]


def numbers(output, folder, column="n"):
    """That column of accepted/ or rejected/."""
    return [row[column] for row in read_rows(output, folder)]


def result_bytes(output):
    """What an interrupted and an unbroken run must have alike."""
    output = Path(output)
    shards = [*sorted(output.glob("accepted/part-*")), *sorted(output.glob("rejected/part-*"))]
    files = [*shards, output / "failures.jsonl", output / "README.md"]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}
