"""Every input form to every output form: types, order and columns survive."""

import csv
import gzip
import json
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import fake_translation
from translate_jobs import read_rows

from hala_engine.errors import InputError

TEXTS = ["Hello there", 'tab\tand "quotes", comma', "سلام world", "two\nlines", "42", ""]
OUTPUTS = ("jsonl", "parquet")


def write_text_rows(path):
    rows = [{"text": text, "n": str(index)} for index, text in enumerate(TEXTS)]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "txt":
        rows = [{"text": text.replace("\n", " ")} for text in TEXTS]
        content = "".join(row["text"] + "\n" for row in rows)
    elif kind == "jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows)
    elif kind == "json":
        content = json.dumps(rows)
    else:
        with path.open("w", newline="") as file:
            dialect = "excel" if kind == "csv" else "excel-tab"
            writer = csv.DictWriter(file, ["text", "n"], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
        return rows
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return rows


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_text_files_to_both_outputs(tmp_path, translate, name, out):
    rows = write_text_rows(tmp_path / name)
    translate(tmp_path / name, format=out, shard_rows=4)
    written = read_rows(tmp_path / "out", out)
    assert [{key: row[key] for key in rows[0]} for row in written] == rows
    assert [row["text_ar"] for row in written] == [fake_translation(row["text"]) for row in rows]
    assert [row["_hala"]["id"] for row in written] == list(range(6))
    assert written[5]["_hala"]["flags"] == ["empty"]
    assert len(list((tmp_path / "out" / "data").iterdir())) == 2


JSON_ROWS = [
    {"text": "One", "i": 1, "big": 2**62, "f": 0.5, "b": True, "x": None, "d": {"a": [1, {}]}},
    {"text": "Two", "i": -7, "big": 0, "f": 3, "b": False, "x": "s", "d": {"a": [], "c": "é😀"}},
    {"i": 0, "text": "Three", "extra": [1, "a"]},
]


def test_json_types_and_key_order_survive_as_json(tmp_path, translate, write_rows):
    translate(write_rows(JSON_ROWS))
    written = read_rows(tmp_path / "out")
    for row in written:
        assert list(row)[-2:] == ["text_ar", "_hala"]
        del row["text_ar"], row["_hala"]
    assert [json.dumps(row) for row in written] == [json.dumps(row) for row in JSON_ROWS]


def test_json_types_survive_in_parquet_and_mixed_columns_become_json_text(
    tmp_path, translate, write_rows
):
    translate(write_rows(JSON_ROWS), format="parquet")
    table = pq.read_table(tmp_path / "out/data/part-00000.parquet")
    assert table.schema.field("i").type == pa.int64()
    assert table.schema.field("f").type == pa.float64()
    assert table.schema.field("b").type == pa.bool_()
    assert table.column("big").to_pylist() == [2**62, 0, None]
    assert table.column("f").to_pylist() == [0.5, 3.0, None]
    assert table.column("x").to_pylist() == [None, "s", None]
    # A list of a number and a text has no parquet type; a struct without fields neither.
    assert [v and json.loads(v) for v in table.column("extra").to_pylist()] == [
        None,
        None,
        [1, "a"],
    ]
    assert json.loads(table.column("d")[1].as_py()) == {"a": [], "c": "é😀"}


def test_floats_that_come_late_make_floats_of_whole_numbers_too_large_for_them(
    tmp_path, translate, write_rows
):
    """Types are found a thousand rows at a time."""
    rows = [{"text": "a", "f": 2**60 + 1} for _ in range(1000)] + [{"text": "b", "f": 0.5}]
    translate(write_rows(rows), format="parquet")
    table = pq.read_table(tmp_path / "out/data/part-00000.parquet")
    assert set(table.column("f").to_pylist()) == {float(2**60), 0.5}


def test_a_type_that_changes_late_in_the_file_is_found_before_work(tmp_path, translate, write_rows):
    rows = [{"text": "a", "v": index} for index in range(1500)] + [{"text": "b", "v": "word"}]
    translate(write_rows(rows), format="parquet", shard_rows=700)
    written = read_rows(tmp_path / "out", "parquet")
    assert [json.loads(row["v"]) for row in written] == [row["v"] for row in rows]


@pytest.fixture
def parquet_file(tmp_path):
    table = pa.table(
        {
            "text": ["One", "Two", None, "Four"],
            "when": pa.array([1, 2, 3, None], pa.timestamp("ns")),
            "day": [date(2024, 1, 2), None, None, date(2020, 2, 29)],
            "price": [Decimal("1.50"), None, Decimal("0.01"), Decimal("9.99")],
            "raw": [b"\x00\xff", b"ok", None, b""],
            "nested": [{"a": [1, 2], "b": "x"}, None, {"a": [], "b": None}, {"a": None, "b": "y"}],
            "kind": pa.array(["u", "v", "u", None]).dictionary_encode(),
        }
    ).replace_schema_metadata({"huggingface": "{}"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    return tmp_path / "in.parquet"


def test_parquet_to_parquet_keeps_every_type(tmp_path, translate, parquet_file):
    translate(parquet_file, shard_rows=3)
    given = pq.read_table(parquet_file)
    parts = [pq.read_table(tmp_path / f"out/data/part-0000{i}.parquet") for i in range(2)]
    written = pa.concat_tables(parts)
    assert written.select(given.column_names).equals(given)
    assert written.column("text_ar").to_pylist() == [
        fake_translation("One"),
        fake_translation("Two"),
        None,
        fake_translation("Four"),
    ]
    # It would describe the columns to `datasets` as they were before.
    assert b"huggingface" not in (written.schema.metadata or {})


def test_parquet_to_json_lines(tmp_path, translate, parquet_file):
    translate(parquet_file, format="jsonl")
    row = read_rows(tmp_path / "out")[0]
    assert row["day"] == "2024-01-02"
    assert row["price"] == "1.50"
    assert row["when"].startswith("1970-01-01 00:00:00.000000001")
    assert row["nested"] == {"a": [1, 2], "b": "x"}


def test_a_directory_is_its_files_in_order(tmp_path, translate):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "README.md").write_text("not data")
    (folder / "c.jsonl").write_text("")
    translate(folder, shard_rows=3)
    assert [row["text"] for row in read_rows(tmp_path / "out")] == ["one", "two", "three", "four"]


def test_several_parquet_files_and_shards_over_their_borders(tmp_path, translate):
    for index in range(3):
        table = pa.table({"text": [f"row {index} {row}" for row in range(5)], "n": [index] * 5})
        pq.write_table(table, tmp_path / f"{index}.parquet", row_group_size=2)
    folder = tmp_path
    translate(folder, shard_rows=4)
    rows = read_rows(tmp_path / "out", "parquet")
    assert [row["text"] for row in rows] == [f"row {i} {r}" for i in range(3) for r in range(5)]


def test_parquet_files_with_other_columns_and_types_are_brought_together(tmp_path, translate):
    pq.write_table(
        pa.table({"text": ["a", "b"], "n": pa.array([1, 2], pa.int32())}), tmp_path / "1.parquet"
    )
    pq.write_table(pa.table({"more": ["x"], "n": [2**40], "text": ["c"]}), tmp_path / "2.parquet")
    translate(tmp_path, shard_rows=2)
    rows = read_rows(tmp_path / "out", "parquet")
    assert [row["n"] for row in rows] == [1, 2, 2**40]
    assert [row["more"] for row in rows] == [None, None, "x"]
    parts = sorted((tmp_path / "out/data").iterdir())
    assert pq.read_schema(parts[0]) == pq.read_schema(parts[1])


def test_parquet_and_text_are_not_mixed(tmp_path, translate, parquet_file):
    (tmp_path / "b.txt").write_text("one\n")
    with pytest.raises(InputError, match="cannot be mixed"):
        translate(tmp_path)


def test_halves_of_characters_are_replaced_since_nothing_reads_them(tmp_path, translate):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    translate(tmp_path / "a.jsonl")
    [row] = read_rows(tmp_path / "out")
    assert row["text"] == "a \ufffd b"
    assert row["text_ar"] == fake_translation("a \ufffd b")
    translate(tmp_path / "a.jsonl", output=tmp_path / "parquet", format="parquet")
    assert read_rows(tmp_path / "parquet", "parquet")[0]["text"] == "a \ufffd b"
