"""Reading shards where the scan found them, of every form."""

import os
import random

import pyarrow as pa
import pytest
from dataset_files import write_file, write_parquet, write_stream, write_text
from job_plans import plan_of

from hala_engine.errors import JobError
from hala_engine.rows import inputs, lines
from hala_engine.rows.inputs import RowReader, read_rows

TEXT = ["jsonl", "jsonl.gz", "jsonl.zst", "json", "json.zst", "csv", "csv.gz", "tsv.zst", "txt"]
TABLES = {"parquet": write_parquet, "arrow": write_stream, "file.arrow": write_file}
SIZES = (10, 0, 1, 22)


def write_files(folder, form):
    """Files of these sizes; returns all their rows."""
    rows = [{"text": f"row {index}\u00e9"} for index in range(sum(SIZES))]
    first = 0
    for number, size in enumerate(SIZES):
        part, path = rows[first : first + size], folder / f"{number}.{form}"
        if form in TABLES:
            TABLES[form](path, pa.table({"text": pa.array([r["text"] for r in part], pa.string())}))
        else:
            write_text(path, part)
        first += size
    return rows


@pytest.fixture(params=[*TEXT, *TABLES])
def form(request):
    return request.param


@pytest.mark.parametrize("shard_rows", [1, 4, 10, 11, 100])
def test_shards_in_order_and_in_any_order_are_the_rows(tmp_path, form, shard_rows):
    rows = write_files(tmp_path, form)
    plan = plan_of(tmp_path, shard_rows=shard_rows)
    assert plan.rows == len(rows)
    assert list(read_rows(plan.files)) == rows
    shards = list(range(len(plan.starts)))
    shuffled = shards[:]
    random.Random(0).shuffle(shuffled)
    reader = RowReader(plan.files)
    for order in (shards, shuffled, shards[1::2]):
        for shard in order:
            first = shard * shard_rows
            read = reader.read(plan.starts[shard], plan.shard_size(shard))
            assert read.dicts() == rows[first : first + shard_rows]
            assert len(read) == plan.shard_size(shard)
    reader.close()


def test_a_limit_ends_the_plan(tmp_path, form):
    rows = write_files(tmp_path, form)
    plan = plan_of(tmp_path, shard_rows=4, limit=13)
    assert (plan.rows, len(plan.starts)) == (13, 4)
    read = RowReader(plan.files).read(plan.starts[3], plan.shard_size(3))
    assert read.dicts() == rows[12:13]


@pytest.mark.parametrize("form", ["jsonl.gz", "txt.zst", "parquet", "arrow"])
def test_shards_that_follow_each_other_open_a_file_once(tmp_path, monkeypatch, form):
    rows = write_files(tmp_path, form)
    plan = plan_of(tmp_path, shard_rows=2)
    opened = []
    for module, name in ((lines, "open_at"), (inputs, "open_table")):
        real = getattr(module, name)

        def noted(path, *rest, real=real):
            opened.append(path.name)
            return real(path, *rest)

        monkeypatch.setattr(module, name, noted)
    reader = RowReader(plan.files)
    read = []
    for shard, start in enumerate(plan.starts):
        read += reader.read(start, plan.shard_size(shard)).dicts()
    assert read == rows
    assert opened == [f"{number}.{form}" for number in range(len(SIZES))]


def test_a_file_that_changes_between_shards_is_refused(tmp_path, form):
    write_files(tmp_path, form)
    plan = plan_of(tmp_path, shard_rows=4)
    reader = RowReader(plan.files)
    reader.read(plan.starts[0], 4)
    os.utime(plan.files[0].path, ns=(1, 1))
    with pytest.raises(JobError, match=r"was changed during the job"):
        reader.read(plan.starts[1], 4)
    os.unlink(plan.files[-1].path)
    with pytest.raises(JobError, match=r"cannot be read any more"):
        reader.read(plan.starts[-1], 1)


def test_a_page_damaged_on_disk_stops_the_job(tmp_path):
    path = tmp_path / "rows.parquet"
    write_parquet(path, pa.table({"text": [f"row {n}" for n in range(30)]}))
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    plan = plan_of(path, shard_rows=10)
    with pytest.raises(JobError, match=r"rows.parquet: not a readable parquet file"):
        RowReader(plan.files).read(plan.starts[0], 10)


def test_parquet_and_arrow_may_be_mixed(tmp_path):
    table = pa.table({"text": ["a", "b"]})
    write_parquet(tmp_path / "1.parquet", table)
    write_stream(tmp_path / "2.arrow", table.append_column("n", pa.array([1, 2])))
    plan = plan_of(tmp_path, shard_rows=3)
    read = RowReader(plan.files).read(plan.starts[0], 3).table(plan.schema)
    assert read.to_pylist() == [
        {"text": t, "n": n} for t, n in [("a", None), ("b", None), ("a", 1)]
    ]
