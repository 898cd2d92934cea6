"""Files and folders of rows become conversations; whatever is wrong is one line with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hala_trainer.data.rows import Columns, data_files, place_of, read_rows
from hala_trainer.errors import InputError

TALK = [{"role": "user", "content": "abc?"}, {"role": "assistant", "content": "ab"}]
PLAIN = {"prompt": "abc?", "response": "ab"}


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, columns=None) -> list:
    return [messages for _, messages in read_rows(path, columns or Columns())]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        PLAIN,
        {"messages": [{"from": "human", "value": "abc?"}, {"from": "gpt", "value": "ab"}]},
        {"messages": None} | PLAIN,
        {"messages": TALK, "prompt": "other", "response": None, "id": 3},
        {"messages": [message | {"tool_calls": None} for message in TALK]},
    ],
)
def test_every_way_to_write_a_conversation_reads_the_same(tmp_path, row):
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "a.parquet")
    assert read(write_jsonl(tmp_path / "a.jsonl", row, row)) == [TALK, TALK]
    assert read(tmp_path / "a.parquet") == [TALK, TALK]


def test_columns_and_prompt_template_can_be_named(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", {"en": "{x}", "ar": "ب"}, {"chat": TALK})
    columns = Columns("chat", "en", "ar", 'Translate {"this"}: {prompt}')
    said = [{"role": "user", "content": 'Translate {"this"}: {x}'}]
    assert read(file, columns) == [[*said, {"role": "assistant", "content": "ب"}], TALK]


def test_further_keys_of_a_message_reach_the_template(tmp_path):
    row = {"messages": [TALK[0], TALK[1] | {"thinking": "hm"}]}
    sharegpt = {"messages": [TALK[0], {"from": "gpt", "value": "ab", "thinking": "hm"}]}
    assert read(write_jsonl(tmp_path / "a.jsonl", row, sharegpt)) == [row["messages"]] * 2


def test_only_a_line_feed_ends_a_row_and_blank_lines_are_passed_over(tmp_path):
    row = {"prompt": "a\u2028b\x85c", "response": "d"}
    file = tmp_path / "a.jsonl"
    line = json.dumps(row, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n \n\n{line}".encode())
    assert [messages[0]["content"] for messages in read(file)] == [row["prompt"]] * 2
    assert [place for place, _ in read_rows(file, Columns())] == [
        f"{file} line 1",
        f"{file} line 4",
    ]
    assert [place_of(file, i) for i in (0, 1)] == [f"{file} line 1", f"{file} line 4"]


def test_places_in_parquet_are_rows(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([PLAIN] * 3), file)
    places = [place for place, _ in read_rows(file, Columns())]
    assert places == [f"{file} row {n}" for n in (1, 2, 3)] == [place_of(file, i) for i in range(3)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[1]", "a row must be a JSON object"),
        (b'{"text": "x"}', "needs `messages`, or `prompt` and `response`"),
        (b'{"prompt": "x"}', "`response` must be text, not missing or null"),
        (b'{"prompt": 3, "response": "x"}', "`prompt` must be text, not a number"),
        (b'{"messages": "x"}', "`messages` must be a list of messages, not text"),
        (b'{"messages": []}', "no assistant turn, so nothing to learn from it (its roles: none)"),
        (b'{"messages": ["x"]}', "message 1 must be an object, not text"),
        (b'{"messages": [{"content": "x"}]}', "message 1 needs a role"),
        (
            b'{"messages": [{"role": "assistant", "content": ["x"]}]}',
            "the content of message 1 must be text, not a list",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}, {"role": "bot", "content": "y"}]}',
            "no assistant turn, so nothing to learn from it (its roles: user, bot)",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    file = tmp_path / "a.jsonl"
    file.write_bytes(json.dumps(PLAIN).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(InputError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file} line 3: {said}")
    assert "\n" not in str(caught.value)


def test_a_wrong_parquet_row_is_named(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([PLAIN, {"prompt": "x", "response": None}]), file)
    with pytest.raises(InputError, match=r"a\.parquet row 2: `response` must be text"):
        read(file)


def test_a_parquet_file_without_the_columns_says_what_it_has(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"en": "x", "ar": "y"}]), file)
    with pytest.raises(InputError, match=r"needs `messages`, or .* and `response`; has ar, en$"):
        read(file)


@pytest.mark.parametrize("damage", [slice(0, None), slice(4, -40)], ids=["all", "pages"])
def test_a_damaged_parquet_file_is_one_line(tmp_path, damage):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([PLAIN]), file)
    content = bytearray(file.read_bytes())
    content[damage] = b"\xff" * len(content[damage])
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a.parquet: cannot be read") as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    for name in ("b.jsonl", "a.parquet", "notes.txt", ".a.jsonl", "failures.jsonl"):
        (tmp_path / name).touch()
    assert [p.name for p in data_files(tmp_path)] == ["a.parquet", "b.jsonl"]


def test_the_output_of_translate_is_its_data_folder(tmp_path):
    (tmp_path / ".progress").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("data/part-00001.jsonl", "data/part-00000.jsonl", "failures.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="its job is not finished"):
        data_files(tmp_path)
    (tmp_path / "manifest.json").touch()
    assert [p.name for p in data_files(tmp_path)] == ["part-00000.jsonl", "part-00001.jsonl"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "none: no such data file or folder"),
        ("a.json", "a.json: data must be .jsonl or .parquet"),
        ("judged", "judged: no .jsonl or .parquet file in it; give one of its folders: accepted"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path, name, said):
    (tmp_path / "a.json").touch()
    (tmp_path / "judged" / "accepted").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        data_files(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


def test_an_unreadable_file_is_one_line(tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "a.jsonl", PLAIN)

    def refuse(self, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(InputError, match=r"a.jsonl: cannot be read \(Permission denied\)"):
        read(file)
