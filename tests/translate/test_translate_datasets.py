"""Datasets of `datasets` in, and out again through `load_dataset` on the job's output."""

import os

import pytest
from datasets import Dataset, Features, List, Value, load_dataset, load_from_disk
from fake_engine import fake_translation
from translate_jobs import run_command

FEATURES = Features(
    {
        "text": Value("string"),
        "long": Value("large_string"),
        "n": Value("int32"),
        "tags": List(Value("string")),
        "deep": {"x": Value("float32"), "y": List({"z": Value("int8")})},
        "when": Value("timestamp[ns]"),
        "messages": List({"role": Value("string"), "content": Value("string")}),
    }
)


def row(n):
    return {
        "text": f"Hello {n}",
        "long": None,
        "n": n,
        "tags": ["x"] * (n % 3),
        "deep": {"x": 0.5, "y": [{"z": 1}] * (n % 2)},
        "when": None,
        "messages": [{"role": "user", "content": "hi there"}] * (n % 2),
    }


@pytest.fixture
def saved(tmp_path):
    data = Dataset.from_list([row(n) for n in range(25)], features=FEATURES)
    data.save_to_disk(tmp_path / "saved", num_shards=3)
    return tmp_path / "saved"


@pytest.fixture
def load(tmp_path):
    """The rows of an output, without what `datasets` may have kept of an earlier one."""
    return lambda out: load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_saved_dataset_to_parquet_keeps_its_types_and_rows(tmp_path, translate, saved, load):
    translate(saved, shard_rows=10, messages_column="messages")
    loaded = load(tmp_path / "out")
    assert {name: loaded.features[name] for name in FEATURES} == dict(FEATURES)
    assert loaded.features["text_ar"] == FEATURES["text"]
    assert loaded.features["messages_ar"] == FEATURES["messages"]
    assert loaded.select_columns(list(FEATURES)).to_list() == load_from_disk(saved).to_list()
    assert loaded["text_ar"][:] == [fake_translation(text) for text in loaded["text"]]
    # And once more: saved, translated, loaded.
    loaded.remove_columns("_hala").save_to_disk(tmp_path / "again")
    translate(tmp_path / "again", tmp_path / "out2", columns=("text_ar",), target="fr")
    assert load(tmp_path / "out2")["text_ar"][:] == loaded["text_ar"][:]


def test_a_saved_dataset_to_json_lines_can_be_loaded(tmp_path, translate, saved, load):
    translate(saved, shard_rows=10, messages_column="messages", format="jsonl")
    given, loaded = load_from_disk(saved), load(tmp_path / "out")
    kept = [name for name in FEATURES if name != "when"]  # JSON has no times
    assert {name: loaded.features[name] for name in kept if name != "long"} == {
        name: FEATURES[name] for name in kept if name != "long"
    }
    assert loaded.select_columns(kept).to_list() == given.select_columns(kept).to_list()
    assert loaded["messages_ar"][1][0]["content"] == fake_translation("hi there")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_what_comes_in_a_later_shard_only_can_be_loaded(
    tmp_path, translate, write_rows, load, format
):
    rows = [{"text": "Hello", "late": None, "list": [], "n": 1} for _ in range(10)]
    rows += [{"text": "", "late": {"a": ["s"]}, "list": [{"b": 1}], "n": 0.5, "new": "x"}]
    translate(write_rows(rows), shard_rows=10, format=format)
    loaded = load(tmp_path / "out")
    assert [row["_hala"]["flags"] for row in loaded] == [[]] * 10 + [["empty"]]
    for given, found in zip(rows, loaded, strict=True):
        names = ("text", "late", "list", "n", "new")
        assert [found[name] for name in names] == [given.get(name) for name in names]


def test_an_output_is_an_input_of_its_rows_alone(tmp_path, translate, write_rows):
    from hala_engine.rows.inputs import find_files

    translate(write_rows([{"text": "a"}, {"text": "b"}]), shard_rows=1)
    names = [os.path.basename(file.path) for file in find_files((str(tmp_path / "out"),))]
    assert names == ["part-00000.jsonl", "part-00001.jsonl"]


def test_the_command_reads_arrow_files_and_resumes(tmp_path, saved):
    out = tmp_path / "out"
    arguments = (saved, "--output", out, "--shard-rows", 10)
    assert run_command(*arguments).returncode == 0
    (out / "manifest.json").unlink()
    (out / "data" / "part-00001.parquet").unlink()
    assert run_command(*arguments).returncode == 0
    assert len(list((out / "data").iterdir())) == 3
