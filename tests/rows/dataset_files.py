"""The same rows in every form that a job reads."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def write_parquet(path, table):
    pq.write_table(table, path, row_group_size=7)


def write_stream(path, table):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_file(path, table):
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=5)


def write_text(path, rows):
    """Rows with the one column `text`, in the form that the name's ending says."""
    kind = path.name.split(".")[1]
    if kind == "txt":
        content = "".join(row["text"] + "\n" for row in rows)
    elif kind == "jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows)
    elif kind == "json":
        content = json.dumps(rows)
    else:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["text"], delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = out.getvalue()
    pack = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)
    path.write_bytes(pack(content.encode()))
