"""A table's columns are refused by their type before any work is done."""

import pyarrow as pa
import pytest
from dataset_files import write_parquet, write_stream
from job_plans import plan_of

from hala_engine.errors import InputError

STRING = pa.string()
MESSAGE = pa.struct([("role", STRING), ("content", STRING)])
PARTS = pa.list_(pa.struct([("type", STRING), ("text", STRING)]))
CHATS = [
    pa.list_(MESSAGE),
    pa.large_list(pa.struct([("from", STRING), ("value", pa.large_string()), ("n", pa.int8())])),
    pa.list_(pa.struct([("role", pa.dictionary(pa.int8(), STRING)), ("content", PARTS)])),
    pa.list_(pa.struct([("role", STRING), ("content", pa.null())])),
    pa.null(),
]
NO_CHATS = {
    STRING: r"column 'messages' is string, not a list of messages \{role, content\} or",
    pa.list_(STRING): r"column 'messages' is list<.*string>, not a list of messages",
    MESSAGE: r"not a list of messages",
    pa.list_(pa.struct([("role", STRING), ("text", STRING)])): r"not a list of messages",
    pa.list_(pa.struct([("role", pa.int8()), ("content", STRING)])): r"not a list of messages",
    pa.list_(pa.struct([("role", STRING), ("content", pa.int64())])): r"not a list of messages",
    pa.struct([("role", pa.list_(STRING)), ("content", pa.list_(STRING))]): (
        r"column 'messages' is one struct of lists, as old versions of `datasets` .*; store it as"
    ),
}
TEXTS = [STRING, pa.large_string(), pa.dictionary(pa.int8(), STRING), pa.null()]
NO_TEXTS = [pa.int64(), pa.binary(), pa.list_(STRING), MESSAGE]


def plan_with(tmp_path, name, kind, **options):
    path = tmp_path / "rows.arrow"
    write_stream(path, pa.table({name: pa.nulls(3, kind)}))
    return plan_of(path, **options)


@pytest.mark.parametrize("kind", CHATS, ids=str)
def test_chats_are_taken(tmp_path, kind):
    assert plan_with(tmp_path, "messages", kind, columns=(), messages_column="messages").rows == 3


@pytest.mark.parametrize("kind", NO_CHATS, ids=str)
def test_what_is_no_chat_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match=NO_CHATS[kind]) as caught:
        plan_with(tmp_path, "messages", kind, columns=(), messages_column="messages")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_is_taken(tmp_path, kind):
    assert plan_with(tmp_path, "text", kind).rows == 3


@pytest.mark.parametrize("kind", NO_TEXTS, ids=str)
def test_what_is_no_text_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match=r"rows.arrow: column 'text' is .*, not text"):
        plan_with(tmp_path, "text", kind)


def test_every_file_is_looked_at_but_for_empty_ones(tmp_path):
    write_parquet(tmp_path / "1.parquet", pa.table({"text": ["a"]}))
    write_parquet(tmp_path / "2.parquet", pa.table({"text": pa.nulls(0, pa.int64())}))
    write_parquet(tmp_path / "3.parquet", pa.table({"other": ["a"], "txt": ["a"]}))
    with pytest.raises(InputError, match=r"3.parquet: no column 'text'; .* did you mean 'txt'"):
        plan_of(tmp_path)


def test_a_column_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "x", "x"])
    write_parquet(tmp_path / "a.parquet", table)
    with pytest.raises(InputError, match=r"has two columns 'x'; rename one"):
        plan_of(tmp_path)
