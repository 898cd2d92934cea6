import gzip
import json
from itertools import islice

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hala_engine.errors import InputError
from hala_engine.rows import json_array
from hala_engine.rows.kinds import kind_of
from hala_engine.rows.text_files import READERS

ROWS = [
    {"text": 'Hello, "you"\nthere', "n": "1"},
    {"text": "مرحبا — 😀", "n": ""},
    {"text": "  tab\tand space ", "n": "x,y"},
    {"text": "", "n": "last"},
]


def as_csv(delimiter):
    def field(value):
        return '"' + value.replace('"', '""') + '"'

    lines = [delimiter.join(["text", "n"])]
    lines += [delimiter.join(map(field, row.values())) for row in ROWS]
    return "\r\n".join(lines)


CONTENT = {
    ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    ".json": json.dumps(ROWS, ensure_ascii=False, indent=2) + "\n",
    ".csv": as_csv(","),
    ".tsv": as_csv("\t"),
}


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def read(path, start=0):
    return list(READERS[kind_of(path)](path, start))


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", CONTENT)
def test_rows_and_the_rest_from_every_offset(tmp_path, kind, bom, packing):
    data = bom + CONTENT[kind].encode()
    path = tmp_path / f"rows{kind}{packing}"
    path.write_bytes(PACK[packing](data))
    rows = read(path)
    assert [row.values for row in rows] == ROWS
    for index, row in enumerate(rows):
        assert [rest.values for rest in read(path, row.end)] == ROWS[index + 1 :]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_compressed_files_may_be_joined_ones(tmp_path, packing):
    path = tmp_path / f"rows.txt{packing}"
    path.write_bytes(b"".join(map(PACK[packing], (b"one\ntw", b"o\nthree\n", b""))))
    rows = read(path)
    assert [row.values["text"] for row in rows] == ["one", "two", "three"]
    assert [row.values["text"] for row in read(path, rows[0].end)] == ["two", "three"]


@given(values=st.lists(st.text(max_size=30), max_size=20), chunk=st.integers(1, 40))
def test_a_json_array_is_decoded_alike_whatever_the_chunks(tmp_path_factory, values, chunk):
    rows = [{"text": value.encode("utf-8", "replace").decode()} for value in values]
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    before, json_array._CHUNK = json_array._CHUNK, chunk
    try:
        assert [row.values for row in read(path)] == rows
    finally:
        json_array._CHUNK = before


def test_a_text_file_has_a_row_for_each_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("One\r\n\nالثالث\x0bx\nlast".encode())
    assert [row.values["text"] for row in read(path)] == ["One", "", "الثالث\x0bx", "last"]


def test_json_lines_under_the_name_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.values for row in read(path)] == [{"text": "a"}, {"text": "b"}]


def test_rows_come_before_the_file_has_been_read(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}, {"text": "b"} oops')
    assert [row.values["text"] for row in islice(READERS[".json"](path, 0), 2)] == ["a", "b"]


BROKEN = {
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b"\n', r"cut.jsonl:2: broken JSON .*mend or delete"),
    "list.jsonl": (
        b'{"text": "a"}\n\n[1]\n',
        r"list.jsonl:3: .* must be a JSON object, not an arr",
    ),
    "array.jsonl": (b'[\n{"text": "a"}]', r"array.jsonl:1: .*name that ends in .json"),
    "deep.jsonl": (b"[" * 100_000, r"deep.jsonl:1: .*nested too deeply"),
    "element.json": (b'[{"text": "a"}, {"text": }]', r"broken JSON in element 2 .*at byte 16"),
    "open.json": (b'[{"text": "a"}', r"no comma after element 1"),
    "after.json": (b'[{"text": "a"}] x', r"more text after the array's end"),
    "word.json": (b'"text"', r"no JSON array"),
    "latin.txt": ("a\ncafé\n".encode("latin-1"), r"latin.txt:2: not UTF-8 at byte 5; .*iconv"),
    "wide.txt": ("Hello".encode("utf-16"), r"looks like UTF-16"),
    "latin.json": ('[{"text": "café au lait"}]'.encode("latin-1"), r"not UTF-8 at byte 14"),
    "short.csv": (b"text,n\na,1\nb\n", r"short.csv:3: 1 fields under a header of 2"),
    "quote.csv": (b'text,n\n"a,1\nb,2\n', r"quote.csv:2: broken quotes"),
    "twice.csv": (b"text,text\na,b\n", r"column 'text' twice"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "abc"}\n' * 99)[:-12], r"cut.jsonl.gz: damaged gzip"),
    "plain.jsonl.gz": (b'{"text": "abc"}\n', r"damaged gzip"),
    "cut.txt.zst": (zstd(b"abc\n" * 99)[:-3], r"cut.txt.zst: damaged zstd .*Truncated.*copy it"),
    "plain.csv.zst": (b"text\na\n", r"damaged zstd"),
    "second.txt.zst": (zstd(b"abc\n") + b"abc\n", r"damaged zstd"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_with_its_place(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_cell_may_be_longer_than_csv_allows_by_default(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("text\n" + "a" * 300_000 + "\n")
    assert len(read(path)[0].values["text"]) == 300_000
