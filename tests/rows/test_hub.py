"""hf:// inputs, through the real `datasets` and a small hub on this machine.

Where the hub is, is read when `datasets` is imported: each look runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from dataset_files import write_parquet
from hub_server import serve

from hala_engine.errors import InputError
from hala_engine.rows.inputs import find_files

ROOT = Path(__file__).parents[2]
ROWS = [{"text": f"row {n}", "n": n} for n in range(25)]
CARD = """---
configs:
- config_name: a
  data_files: a.jsonl
- config_name: b
  data_files: b.jsonl
---
"""
LOOK = """
import json, sys
from dataclasses import replace
from hala_engine.errors import InputError
from hala_engine.rows.inputs import read_rows
from job_plans import plan_of
for address in sys.argv[1:]:
    try:
        plan = plan_of(address, shard_rows=10)
        found = {"rows": list(read_rows(plan.files)), "content": [f.content for f in plan.files]}
    except InputError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The address of a hub with some small datasets."""
    root = tmp_path_factory.mktemp("hub")
    files = {
        "one": {"data/train-00000-of-00002.parquet": ROWS[:12]},
        "splits": {"train.jsonl": ROWS[:1], "test.jsonl": ROWS[1:2]},
        "configured": {"README.md": CARD, "a.jsonl": ROWS[:1], "b.jsonl": ROWS[1:2]},
        "broken": {"train.jsonl": '{"text": "a"}\n{"text": \n'},
    }
    files["one"]["data/train-00001-of-00002.parquet"] = ROWS[12:]
    for folder, contents in files.items():
        for name, content in contents.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                write_parquet(path, pa.Table.from_pylist(content))
            elif isinstance(content, str):
                path.write_text(content)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
    served = {f"team/{name}": root / name for name in files}
    with serve(served, gated=["team/gated"]) as address:
        yield address


def look_at(hub, cache, *addresses, offline=False):
    """What a process with this cache finds at each."""
    env = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-c", LOOK, *addresses]
    done = subprocess.run(command, env=env, cwd=cache, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return dict(zip(addresses, map(json.loads, done.stdout.splitlines()), strict=True))


GOOD = {
    "hf://team/one": ROWS,
    "hf://team/one:train": ROWS,
    "hf://team/one/default:train": ROWS,
    "hf://team/splits:test": ROWS[1:2],
    "hf://team/configured/b": ROWS[1:2],
}
BAD = {
    "hf://team/one:tests": "has the splits train; give one, such as hf://team/one:train",
    "hf://team/splits": "has the splits train, test; give one, such as hf://team/splits:train",
    "hf://team/configured": "Please pick one among the available configs: ['a', 'b']",
    "hf://team/configured/c": "BuilderConfig 'c' not found. Available: ['a', 'b']",
    "hf://team/none": "doesn't exist on the Hub",
    "hf://team/gated": "gated dataset",
    "hf://team/broken": "JSON parse error",
}


@pytest.fixture(scope="module")
def looked(hub, tmp_path_factory):
    return look_at(hub, tmp_path_factory.mktemp("cache"), *GOOD, *BAD)


@pytest.mark.parametrize("address", GOOD)
def test_a_split_is_read_from_the_cache(looked, address):
    assert looked[address]["rows"] == GOOD[address]


@pytest.mark.parametrize("address", BAD)
def test_what_cannot_be_loaded_is_one_line(looked, address):
    message = looked[address]["error"]
    assert message.startswith(f"{address}: ") and "\n" not in message
    assert BAD[address] in message
    if address == "hf://team/gated":
        assert "`hf auth login`" in message


def test_what_the_input_is_does_not_depend_on_the_cache_and_needs_no_network_again(
    hub, looked, tmp_path
):
    address = "hf://team/one"
    first = look_at(hub, tmp_path, address)[address]
    assert first["content"] == looked[address]["content"]
    assert look_at(hub, tmp_path, address, offline=True)[address] == first


def test_a_folder_of_that_name_here_is_not_meant(hub, tmp_path):
    folder = tmp_path / "team" / "splits"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"text": "wrong"}\n')
    address = "hf://team/splits:test"
    assert look_at(hub, tmp_path, address)[address]["rows"] == ROWS[1:2]


def test_without_network_and_cache(hub, tmp_path):
    address = "hf://team/one"
    message = look_at(hub, tmp_path, address, offline=True)[address]["error"]
    assert "cannot be loaded" in message and "\n" not in message


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://name", "hf://a/b/c/d", "hf://a/b:", "hf://a/b:train[:10%]", "hf://a/b:x+y"],
)
def test_other_forms_of_address_are_refused(address):
    with pytest.raises(InputError, match=r"want hf://owner/name\[/configuration\]\[:split\]"):
        find_files((address,))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs `datasets`; pip install datasets"):
        find_files(("hf://a/b",))
