"""What is added to a row, alone and beside what an earlier job added, and the sums of it."""

import pyarrow as pa

from hala_engine.jobs.manifest import ShardFile, ShardRecord, Totals
from hala_engine.jobs.results import RowResult, output_schema

EARLIER = {"id": 70, "flags": ["truncated", "empty"], "prompt_tokens": 5, "note": "x"}


def test_a_later_job_adds_its_flags_and_scores_and_keeps_the_rest():
    row = RowResult(flags=["empty", "odd"], prompt_tokens=9, output_tokens=1, scores={"score": 0.5})
    assert row.added_to(EARLIER, 3) == {
        "id": 70,
        "flags": ["truncated", "empty", "odd"],
        "prompt_tokens": 5,
        "output_tokens": 1,
        "note": "x",
        "score": 0.5,
    }


def test_a_later_score_takes_the_place_of_an_earlier_one():
    row = RowResult(scores={"score": 0.5})
    assert row.added_to({"score": 0.1, "flags": None}, 3)["score"] == 0.5


def test_columns_are_added_in_order_and_info_is_last_or_where_it_was():
    chats = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    schema = pa.schema({"messages": chats, "n": pa.int8()})
    added = {"messages_ar": "messages", "text_ar": None}
    made = output_schema(schema, added, ())
    assert made.names == ["messages", "n", "messages_ar", "text_ar", "_hala"]
    assert (made.field(2).type, made.field(3).type) == (chats, pa.string())
    old = pa.struct({"id": pa.int32(), "note": pa.string()})
    made = output_schema(pa.schema({"_hala": old, "n": pa.int8()}), {}, ("score",))
    assert made.names == ["_hala", "n"]
    info = made.field(0).type
    assert info.field("score").type == pa.float64()
    assert {"id", "flags", "note"} <= {field.name for field in info}


def test_a_record_counts_every_flag_and_failure_and_each_failed_row_once():
    rows = [
        RowResult(flags=["truncated", "empty"], prompt_tokens=2, output_tokens=3),
        RowResult(failures=[("a", "why"), ("b", "why")], prompt_tokens=4),
        RowResult(flags=["empty"], output_tokens=5),
    ]
    record = ShardRecord.of([ShardFile("data/x", "sha", 7, 3)], rows, 100, 1.5)
    assert record.flags == {"truncated": 1, "empty": 2}
    assert record.failures == [(101, "a", "why"), (101, "b", "why")]
    totals = Totals.of([record, record])
    assert totals == Totals(
        rows=6,
        written={"data": 6},
        failed_rows=2,
        flags={"empty": 4, "truncated": 2},
        prompt_tokens=12,
        output_tokens=16,
        seconds=3.0,
    )
