"""Files and folders of rows become conversations; whatever is wrong is one line with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hala_trainer.config import SourceConfig
from hala_trainer.data.rows import FileRows, data_files
from hala_trainer.errors import InputError

TALK = [{"role": "user", "content": "abc?"}, {"role": "assistant", "content": "ab"}]
PLAIN = {"prompt": "abc?", "response": "ab"}


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path, *rows):
    """Rows in the format that the name's end says."""
    if path.suffix == ".jsonl":
        return write_jsonl(path, *rows)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path, **source) -> list:
    return [messages for _, messages in FileRows(path, SourceConfig(**source))]


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
    columns = {"messages_column": "chat", "prompt_column": "en", "response_column": "ar"}
    columns["prompt_template"] = 'Translate {"this"}: {prompt}'
    said = [{"role": "user", "content": 'Translate {"this"}: {x}'}]
    assert read(file, **columns) == [[*said, {"role": "assistant", "content": "ب"}], TALK]


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
    rows = FileRows(file, SourceConfig())
    places = [f"{file} line 1", f"{file} line 4"]
    assert [place for place, _ in rows] == places == [rows.place_of(i) for i in (0, 1)]


def test_places_in_parquet_are_rows(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([PLAIN] * 3), file)
    rows = FileRows(file, SourceConfig())
    places = [f"{file} row {n}" for n in (1, 2, 3)]
    assert [place for place, _ in rows] == places == [rows.place_of(i) for i in range(3)]


FORMATS = pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])


@FORMATS
def test_a_dotted_column_is_a_field_of_objects(tmp_path, name):
    row = {"translation": {"en": "abc?", "ar": "ab", "fr": "x"}, "deep": {"er": {"chat": TALK}}}
    file = write(tmp_path / name, row, row)
    pair = {"prompt_column": "translation.en", "response_column": "translation.ar"}
    assert read(file, **pair) == [TALK, TALK]
    assert read(file, messages_column="deep.er.chat") == [TALK, TALK]
    with pytest.raises(InputError, match="translation"):
        read(file, prompt_column="translation.de", response_column="translation.en.text")


@FORMATS
def test_a_column_whose_name_has_a_dot_is_found(tmp_path, name):
    file = write(tmp_path / name, {"pair.en": "abc?", "pair.ar": "ab"})
    assert read(file, prompt_column="pair.en", response_column="pair.ar") == [TALK]


def marked(flags: list, response: str | None = "ab") -> dict:
    """As hala-engine translate writes a row."""
    return {"prompt": "abc?", "response": response, "_hala": {"id": 0, "flags": flags}}


@FORMATS
def test_flagged_and_failed_rows_are_left_out_and_counted_when_asked(tmp_path, name):
    rows = [marked([]), marked(["truncated"]), marked([], None), marked([], "abc"), marked(["a"])]
    file = write(tmp_path / name, *rows)
    found = FileRows(file, SourceConfig(drop_flagged=True))
    for _ in range(2):
        assert [messages[1]["content"] for _, messages in found] == ["ab", "abc"]
        assert found.flagged == 3
    assert found.place_of(1).endswith((" line 4", " row 4"))
    with pytest.raises(InputError, match=r"(line|row) 3: `response` must be text, not missing"):
        read(file)


@FORMATS
def test_a_chat_is_left_out_when_it_is_flagged_or_failed(tmp_path, name):
    rows = [
        {"messages_ar": chat, "_hala": {"flags": flags}}
        for chat, flags in [(TALK, []), (TALK, ["empty"]), (None, [])]
    ]
    source = {"messages_column": "messages_ar", "drop_flagged": True}
    assert read(write(tmp_path / name, *rows), **source) == [TALK]


@FORMATS
@pytest.mark.parametrize("info", [{}, {"_hala": {"id": 3}}, {"_hala": {"flags": "truncated"}}])
def test_flags_that_are_not_there_cannot_be_gone_by(tmp_path, name, info):
    with pytest.raises(InputError, match=r"`_hala\.flags`.* drop_flagged goes by"):
        read(write(tmp_path / name, PLAIN | info), drop_flagged=True)


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
