"""How a job's rows are shared out: over shards, and over the parts of `--shard I/N`."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hala_engine.jobs.plan import Plan
from hala_engine.rows.inputs import Position


def plan_of(rows, shard_rows, part=(1, 1)):
    starts = [Position(0, offset) for offset in range(0, rows, shard_rows)]
    identity = {"shard_rows": shard_rows, "shard": list(part)}
    return Plan(identity, [], rows, starts, "jsonl", pa.schema([]))


@given(rows=st.integers(1, 200), shard_rows=st.integers(1, 50))
def test_shards_hold_all_rows_and_only_the_last_is_smaller(rows, shard_rows):
    plan = plan_of(rows, shard_rows)
    sizes = [plan.shard_size(shard) for shard in plan.own_shards()]
    assert sum(sizes) == rows
    assert set(sizes[:-1]) <= {shard_rows} and 1 <= sizes[-1] <= shard_rows


@given(shards=st.integers(1, 60), of=st.integers(1, 70))
def test_parts_share_the_shards_evenly_in_order_and_none_twice(shards, of):
    parts = [plan_of(shards, 1, (index, of)).own_shards() for index in range(1, of + 1)]
    assert [shard for part in parts for shard in part] == list(range(shards))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
