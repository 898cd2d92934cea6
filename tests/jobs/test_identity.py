"""What makes a job another job: each field decides, or is known not to change a byte."""

import json

import pyarrow as pa
import pytest
from other_configurations import CASE_IDS, CASES, JUDGE, TRANSLATE, changed, leaves

from hala_engine.jobs.plan import Plan, differences

ALLOWED_TO_CHANGE = {
    # Where things lie; what is in them is compared by its digest.
    "inputs",
    "output",
    "model",
    "revision",
    "overwrite",
    "max_failures",
    # How fast it goes.
    "engine.max_batch_size",
    "engine.max_batched_tokens",
    "engine.memory_utilization",
    "engine.prefix_caching",
}


def plan_of(config):
    identity = json.loads(json.dumps(config.identity()))
    return Plan(identity, [], 1, [], "jsonl", pa.schema([]))


@pytest.mark.parametrize(("config", "name", "value"), CASES, ids=CASE_IDS)
def test_a_field_that_changed_is_named_or_may_change(config, name, value):
    found = differences(plan_of(config), plan_of(changed(config, name, value)))
    flags = [difference.partition(":")[0] for difference in found]
    if name in ALLOWED_TO_CHANGE:
        assert flags == []
    else:
        assert "--" + name.rpartition(".")[2].replace("_", "-") in flags


@pytest.mark.parametrize("config", [TRANSLATE, JUDGE], ids=["translate", "judge"])
def test_an_unchanged_job_is_the_same(config):
    assert differences(plan_of(config), plan_of(config)) == []


def test_translating_and_judging_are_different_jobs():
    assert "--command: 'translate' -> 'judge'" in differences(plan_of(TRANSLATE), plan_of(JUDGE))


@pytest.mark.parametrize("config", [TRANSLATE, JUDGE], ids=["translate", "judge"])
def test_the_manifest_records_every_field(config):
    recorded = json.loads(json.dumps(config.recorded()))
    for name, _ in leaves(config):
        outer, _, inner = name.partition(".")
        assert (inner in recorded[outer]) if inner else (outer in recorded)
