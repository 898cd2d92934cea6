import json

import pyarrow as pa
import pytest
from dataset_files import write_parquet
from datasets import Dataset, DatasetDict

from hala_engine.errors import InputError
from hala_engine.rows.inputs import find_files, read_rows


@pytest.fixture
def make(tmp_path):
    """Write empty files at these paths; returns the folder."""

    def write(*names):
        for name in names:
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return tmp_path / "in"

    return write


def found(folder, *inputs):
    files = find_files(tuple(map(str, inputs or (folder,))))
    return [file.path.removeprefix(f"{folder}/") for file in files]


def test_a_tree_in_the_order_of_names_without_what_is_hidden(make):
    folder = make(
        "b/1.jsonl.zst", "b/0.json", "a.txt", "c.tsv.gz", "b/deep/er.csv",
        "README.md", ".git/x.jsonl", ".hidden.jsonl", "b/dataset_infos.json", "x.parquet.gz",
    )  # fmt: skip
    assert found(folder) == ["a.txt", "b/0.json", "b/1.jsonl.zst", "b/deep/er.csv", "c.tsv.gz"]
    assert found(folder, folder / "c.tsv.gz", folder / "b/deep") == ["c.tsv.gz", "b/deep/er.csv"]


def test_links_are_followed_but_not_round_and_round(make, tmp_path):
    folder = make("a.txt", "b/c.txt")
    (folder / "b" / "up").symlink_to(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.txt").write_text("")
    (folder / "link").symlink_to(elsewhere)
    assert [name.rpartition("/")[2] for name in found(folder)] == ["a.txt", "c.txt", "d.txt"]


def test_the_name_of_a_link_says_what_is_in_it(make, tmp_path):
    (tmp_path / "0123abc").write_text("one\n")
    folder = make("a.txt")
    (folder / "b.txt").symlink_to(tmp_path / "0123abc")
    files = find_files((str(folder),))
    assert [row["text"] for row in read_rows(files)] == ["one"]


@pytest.mark.parametrize("done", [True, False])
def test_of_a_jobs_output_only_the_rows(make, done):
    folder = make("data/part-00000.jsonl", "data/part-00001.jsonl", "failures.jsonl")
    make("manifest.json" if done else ".progress/plan.json")
    assert found(folder) == ["data/part-00000.jsonl", "data/part-00001.jsonl"]


def test_one_of_these_names_is_not_yet_a_jobs_output(make):
    assert found(make("failures.jsonl", "a.jsonl")) == ["a.jsonl", "failures.jsonl"]


def test_a_saved_dataset_in_its_own_order(tmp_path):
    rows = [{"text": f"row {n}", "n": n} for n in range(25)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=3)
    state = tmp_path / "saved" / "state.json"
    files = find_files((str(tmp_path / "saved"),))
    assert len(files) == 3
    assert list(read_rows(files)) == rows
    # The order is the one written down, whatever the names are.
    saved = json.loads(state.read_bytes())
    saved["_data_files"].reverse()
    state.write_text(json.dumps(saved))
    assert find_files((str(tmp_path / "saved"),)) == files[::-1]
    (tmp_path / "saved" / saved["_data_files"][0]["filename"]).unlink()
    with pytest.raises(InputError, match=r"data-00002-of-00003.arrow: missing, though state.json"):
        find_files((str(tmp_path / "saved"),))


def test_splits_of_a_saved_dataset(tmp_path):
    data = Dataset.from_dict({"text": ["a"]})
    DatasetDict(train=data).save_to_disk(tmp_path / "one")
    assert list(read_rows(find_files((str(tmp_path / "one"),)))) == [{"text": "a"}]
    DatasetDict(train=data, test=data).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match=r"two: has the splits train, test; give .*two/train"):
        find_files((str(tmp_path / "two"),))
    assert len(find_files((str(tmp_path / "two" / "test"),))) == 1
    (tmp_path / "two" / "dataset_dict.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset_dict.json: damaged"):
        find_files((str(tmp_path / "two"),))


REFUSED = {
    "nothing": r"no such file or directory",
    "in/b.md": r"unknown kind of file; want \.jsonl",
    "in/empty": r"no input files in this directory; want .*\.arrow",
    "in": r"cannot be mixed with text files",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(make, tmp_path, name):
    folder = make("a.txt", "b.md", "empty/.keep")
    write_parquet(folder / "c.parquet", pa.table({"text": ["a"]}))
    with pytest.raises(InputError, match=REFUSED[name]):
        find_files((str(tmp_path / name),))
