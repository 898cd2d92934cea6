"""Chats through the whole job: what is translated in them, what is copied, what comes back."""

import json
from itertools import pairwise

import fake_engine
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import fake_translation
from translate_jobs import read_rows, run_command

from hala_engine.errors import InputError
from hala_engine.translate import GenerationOptions


def agent_chat(say):
    """With a name, a call, and what a tool gave: said by `say`, or as it was."""
    return [
        {"role": "system", "content": say("be kind")},
        {"role": "user", "content": say("tell me about the sea"), "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1, "arguments": "{}"}]},
        {"role": "tool", "content": "blue and wet", "tool_call_id": 1},
        {"role": "assistant", "content": say("it is wet") + " `blue`"},
    ]


def sharegpt_chat(say):
    return [
        {"from": "human", "value": say("tell me about the sea")},
        {"from": "function_call", "value": "look it up"},
        {"from": "observation", "value": "blue and wet"},
        {"from": "gpt", "value": say("it is wet"), "weight": 0.5},
    ]


def parts_chat(say):
    image = {"type": "image", "url": "https://a.example/b.png", "text": None}
    texts = [{"type": "text", "text": say(text)} for text in ("look here", "and there")]
    return [
        {"role": "user", "content": [texts[0], image, texts[1]]},
        {"role": "assistant", "content": say("plain words")},
    ]


def no_message(say):
    return []


def no_chat(say):
    return None


CHATS = [agent_chat, sharegpt_chat, parts_chat, no_message, no_chat]


@pytest.mark.parametrize("out", ["jsonl", "parquet"])
@pytest.mark.parametrize("chat", CHATS, ids=lambda chat: chat.__name__)
def test_every_form_of_chat_comes_back_with_its_texts_translated(
    tmp_path, translate, write_rows, chat, out
):
    path = write_rows([{"conversations": chat(str), "n": 1}] * 2)
    result = translate(path, columns=(), messages_column="conversations", format=out)
    assert result.job.failed_rows == 0
    for row in read_rows(tmp_path / "out", out):
        assert list(row) == ["conversations", "n", "conversations_ar", "_hala"]
        given, said = (
            json.loads(value) if isinstance(value, str) else value
            for value in (row["conversations"], row["conversations_ar"])
        )
        assert without_nulls(given) == without_nulls(chat(str))
        assert without_nulls(said) == without_nulls(chat(fake_translation))


def without_nulls(value):
    """A table has all fields in each message, null where JSON has none."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def test_in_json_a_message_keeps_its_keys_their_order_and_its_nulls(
    tmp_path, translate, write_rows
):
    message = {"id": 7, "content": "hello", "name": None, "role": "user", "extra": {"a": []}}
    translate(write_rows([{"messages": [message]}]), columns=(), messages_column="messages")
    [row] = read_rows(tmp_path / "out")
    assert json.dumps(row["messages"]) == json.dumps([message])
    said = message | {"content": fake_translation("hello")}
    assert json.dumps(row["messages_ar"]) == json.dumps([said])


def test_a_message_with_a_role_may_have_other_keys_of_any_name(tmp_path, translate, write_rows):
    message = {"from": "ann", "value": "5", "role": "user", "content": "hello"}
    translate(write_rows([{"messages": [message]}]), columns=(), messages_column="messages")
    [row] = read_rows(tmp_path / "out")
    assert row["messages_ar"] == [message | {"content": fake_translation("hello")}]


TEXT = pa.string()
ROLE_AND_CONTENT = pa.struct({"role": TEXT, "content": TEXT, "weight": pa.int8()})
MESSAGE_TYPES = {
    "list": pa.list_(ROLE_AND_CONTENT),
    "large list": pa.large_list(ROLE_AND_CONTENT),
    "large strings": pa.list_(pa.struct({"role": pa.large_string(), "content": pa.large_string()})),
    "roles by number": pa.list_(
        pa.struct({"role": pa.dictionary(pa.int32(), TEXT), "content": TEXT})
    ),
    "not null": pa.list_(
        pa.field("item", pa.struct([pa.field("role", TEXT, nullable=False), ("content", TEXT)]))
    ),
    "from and value": pa.list_(pa.struct({"from": TEXT, "value": TEXT})),
    "parts": pa.list_(
        pa.struct({"role": TEXT, "content": pa.list_(pa.struct({"type": TEXT, "text": TEXT}))})
    ),
}


@pytest.mark.parametrize("name", MESSAGE_TYPES)
def test_a_table_keeps_the_type_of_its_chats(tmp_path, translate, name):
    kind = MESSAGE_TYPES[name]
    sender, content = (field.name for field in list(kind.value_type)[:2])
    text = [{"type": "text", "text": "hello"}] if name == "parts" else "hello"
    chat = [{sender: "user", content: text}, {sender: "tool", content: text}]
    table = pa.table({"messages": pa.array([chat, None, [], chat], kind)})
    pq.write_table(table, tmp_path / "in.parquet")
    read = pq.read_table(tmp_path / "in.parquet")
    translate(tmp_path / "in.parquet", columns=(), messages_column="messages", shard_rows=3)
    parts = [pq.read_table(path) for path in sorted((tmp_path / "out/data").iterdir())]
    assert parts[0].schema == parts[1].schema
    written = pa.concat_tables(parts)
    assert written.schema.field("messages_ar").type == read.schema.field("messages").type
    assert written.column("messages").equals(read.column("messages"))
    said, null, empty, again = written.column("messages_ar").to_pylist()
    assert (null, empty, again) == (None, [], said)
    hello = fake_translation("hello")
    assert [str(message[content]) for message in said] == [
        str(text).replace("hello", hello),
        str(text),
    ]


@pytest.mark.parametrize("shape", [pa.string(), pa.list_(TEXT), pa.list_(pa.struct({"a": TEXT}))])
def test_a_table_without_chats_is_refused_before_work(tmp_path, translate, engine, shape):
    pq.write_table(pa.table({"messages": pa.array([None], shape)}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="not a list of messages"):
        translate(tmp_path / "in.parquet", columns=(), messages_column="messages")
    assert engine.seen == []


def test_a_broken_chat_fails_by_itself_and_says_why(tmp_path, translate, write_rows):
    good = [{"role": "user", "content": "hello"}]
    rows = [
        good,
        "hello",
        [*good, "hello"],
        [{"content": "hello"}],
        [{"role": "user", "content": 5}],
        [*good, {"role": "user", "content": "explode"}],
        good,
    ]
    rows = [{"messages": chat} for chat in rows]
    result = translate(write_rows(rows), columns=(), messages_column="messages", shard_rows=4)
    assert result.job.failed_rows == 5
    written = read_rows(tmp_path / "out")
    assert [row["messages"] for row in written] == [row["messages"] for row in rows]
    said = [{"role": "user", "content": fake_translation("hello")}]
    assert [row["messages_ar"] for row in written] == [said, *[None] * 5, said]
    lines = (tmp_path / "out/failures.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == [
        (1, "messages", "not a list of messages but str"),
        (2, "messages", "a message is no object but str"),
        (3, "messages", "a message needs a role (or from) that is text"),
        (4, "messages", "the content of a message is int, not text"),
        (5, "messages", "it exploded"),
    ]


def test_columns_of_text_beside_chats(tmp_path, translate, engine, write_rows):
    chat = [{"role": "user", "content": "hello"}]
    rows = [
        {"title": "greeting", "messages": chat, "note": "kept"},
        {"title": "explode", "messages": chat, "note": "kept"},
        {"title": "hello", "messages": None, "note": "kept"},
        {"title": "greeting", "messages": "broken", "note": "kept"},
    ]
    translate(write_rows(rows), columns=("title",), messages_column="messages")
    written = read_rows(tmp_path / "out")
    assert list(written[0]) == ["title", "messages", "note", "title_ar", "messages_ar", "_hala"]
    greeting, hello = fake_translation("greeting"), fake_translation("hello")
    said = [{"role": "user", "content": hello}]
    assert [(row["title_ar"], row["messages_ar"]) for row in written] == [
        (greeting, said),
        (None, said),
        (hello, None),
        (greeting, None),
    ]
    assert sorted(engine.seen) == ["explode", "greeting", "hello"]
    failures = (tmp_path / "out/failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["column"] for line in failures] == ["title", "messages"]


def test_identical_messages_are_translated_once_and_counted_each_time(
    tmp_path, translate, engine, write_rows
):
    turns = [{"role": role, "content": "hello there"} for role in ("user", "assistant", "user")]
    system = {"role": "system", "content": "be kind"}
    path = write_rows([{"messages": [system, *turns[:count]]} for count in range(4)])
    translate(path, columns=(), messages_column="messages", shard_rows=1)
    assert sorted(engine.seen) == ["be kind", "hello there"]
    tokens = [row["_hala"]["output_tokens"] for row in read_rows(tmp_path / "out")]
    hello = len(engine.tokenizer.encode(fake_translation("hello there")))
    assert [after - before for before, after in pairwise(tokens)] == [hello] * 3


def test_the_roles_to_copy_may_be_others(tmp_path, translate, engine, write_rows):
    roles = ("system", "tool", "user")
    path = write_rows([{"messages": [{"role": r, "content": f"{r} words"} for r in roles]}])
    translate(path, columns=(), messages_column="messages", copied_roles=("system",))
    [row] = read_rows(tmp_path / "out")
    assert [message["content"] for message in row["messages_ar"]] == [
        "system words",
        fake_translation("tool words"),
        fake_translation("user words"),
    ]
    assert sorted(engine.seen) == ["tool words", "user words"]


def test_a_chats_flags_are_those_of_all_its_messages_each_once(
    tmp_path, translate, write_rows, monkeypatch
):
    answers = {
        "say nothing": "",
        "copy these words": "copy these words",
        "and copy these": "and copy these",
    }
    monkeypatch.setattr(fake_engine, "fake_translation", lambda text: answers.get(text, "كلمتان"))
    turns = ["say nothing", "two words", "copy these words", "and copy these", " "]
    chats = [turns, ["two words", " "], [" "], []]
    rows = [{"messages": [{"role": "user", "content": text} for text in chat]} for chat in chats]
    options = GenerationOptions(max_new_tokens=40)
    translate(write_rows(rows), columns=(), messages_column="messages", generation=options)
    flags = [row["_hala"]["flags"] for row in read_rows(tmp_path / "out")]
    assert flags == [
        ["untranslated", "wrong_script", "empty", "structure_lost"],
        [],
        ["empty"],
        ["empty"],
    ]


def test_a_chat_of_copied_messages_only_has_nothing_to_translate(
    tmp_path, translate, engine, write_rows
):
    chat = [{"role": "tool", "content": "blue"}, {"role": "assistant", "content": None}]
    translate(write_rows([{"messages": chat}]), columns=(), messages_column="messages")
    [row] = read_rows(tmp_path / "out")
    assert (row["messages_ar"], row["_hala"]["flags"]) == (chat, ["empty"])
    assert engine.seen == []


def test_the_command_translates_chats_and_no_column_of_text(tmp_path, write_rows):
    chat = [{"from": "human", "value": "hello"}, {"from": "table", "value": "a b"}]
    path = write_rows([{"conversations": chat, "text": "kept"}])
    flags = ["--messages-column", "conversations", "--copied-roles", "tool, table"]
    done = run_command(path, "--output", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    [row] = read_rows(tmp_path / "out")
    assert "text_ar" not in row
    assert [turn["value"] for turn in row["conversations_ar"]] == [fake_translation("hello"), "a b"]
