import pyarrow as pa
import pytest
from dataset_files import write_file, write_parquet, write_stream

from hala_engine.errors import InputError
from hala_engine.rows.tables import open_table

TABLE = pa.table({"n": range(23), "text": [f"row {n}" for n in range(23)]})
WRITERS = {"rows.parquet": write_parquet, "stream.arrow": write_stream, "file.arrow": write_file}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    path = tmp_path / request.param
    WRITERS[request.param](path, TABLE)
    return path


def test_rows_from_every_start(path):
    with open_table(path) as table:
        assert table.schema == TABLE.schema
        assert table.count() == 23
        for start in range(24):
            batches = list(table.batches(start))
            rows = pa.Table.from_batches(batches, schema=TABLE.schema)
            assert rows.equals(TABLE.slice(start))
            assert all(batch.num_rows for batch in batches)


def test_a_table_without_rows(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, TABLE.slice(0, 0))
        with open_table(tmp_path / name) as table:
            assert table.count() == 0
            assert list(table.batches(0)) == []


def test_a_file_cut_short_is_named(path):
    path.write_bytes(path.read_bytes()[:-100])
    message = f"{path.name}: not a readable .*; copy it again"
    with pytest.raises(InputError, match=message) as caught, open_table(path) as table:
        table.count()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("content", [b"", b"ARROW1", b"PAR1", b"no table at all"])
def test_what_is_no_table_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = f"{name}: not a readable"
    with pytest.raises(InputError, match=message), open_table(tmp_path / name) as table:
        table.count()


def test_a_damaged_page_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "rows.parquet"
    write_parquet(path, TABLE)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with open_table(path) as table:
        assert table.count() == 23
    message = "not a readable parquet file"
    with pytest.raises(InputError, match=message), open_table(path) as table:
        list(table.batches(0))
