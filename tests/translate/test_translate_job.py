"""What one job promises while nothing crashes."""

import fcntl
import hashlib
import json
import os
import shutil

import pytest
from fake_engine import fake_translation
from translate_jobs import read_rows, result_bytes

from hala_engine.errors import InputError, JobError
from hala_engine.jobs.storage import atomic_file
from hala_engine.translate import GenerationOptions, TranslateConfig


def rows_of(count):
    return [{"text": f"Row {index} says hello"} for index in range(count)]


def test_identical_texts_are_translated_once_in_a_shard(tmp_path, translate, engine, write_rows):
    translate(write_rows([{"text": "Hello"}, {"text": " Hello\n"}, {"text": "Bye"}] * 5))
    assert sorted(engine.seen) == ["Bye", "Hello"]
    written = read_rows(tmp_path / "out")
    assert [row["text_ar"] for row in written[:2]] == ["دجسسض", " دجسسض\n"]
    assert len({row["_hala"]["output_tokens"] for row in written[::3]}) == 1


def test_a_long_text_is_cut_and_joined_with_its_white_space(
    tmp_path, translate, engine, write_rows
):
    text = "\n\n".join(f"  Paragraph {i} has some words.\n\tAnd a line. " for i in range(200))
    translate(write_rows([{"text": text}]), max_segment_tokens=10)
    assert len(engine.seen) == 200
    assert read_rows(tmp_path / "out")[0]["text_ar"] == fake_translation(text)


def test_a_row_of_a_hundred_thousand_characters(tmp_path, translate, write_rows):
    rows = [{"text": "word " * 20_000}, {"text": "x" * 100_000}, {"text": "short one"}]
    assert translate(write_rows(rows)).job.failed_rows == 0
    written = read_rows(tmp_path / "out")
    assert [len(row["text_ar"]) for row in written] == [100_000, 100_000, 9]


def test_several_columns(tmp_path, translate, write_rows):
    translate(write_rows([{"q": "What", "a": "That", "n": 1}]), columns=("q", "a"))
    [row] = read_rows(tmp_path / "out")
    assert (row["q_ar"], row["a_ar"]) == (fake_translation("What"), fake_translation("That"))
    assert row["_hala"]["output_tokens"] == 4


def test_a_row_that_cannot_be_translated_is_kept_and_reported(tmp_path, translate, write_rows):
    rows = [{"text": "fine"}, {"text": 5}, {"text": "explode"}, {"text": ["a"]}, {"text": None}]
    result = translate(write_rows(rows), shard_rows=2)
    assert result.job.failed_rows == 3
    written = read_rows(tmp_path / "out")
    assert [row["text"] for row in written] == ["fine", 5, "explode", ["a"], None]
    assert [row["text_ar"] for row in written] == [fake_translation("fine"), *[None] * 4]
    lines = (tmp_path / "out/failures.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"row": 1, "column": "text", "reason": "not text but int"},
        {"row": 2, "column": "text", "reason": "it exploded"},
        {"row": 3, "column": "text", "reason": "not text but list"},
    ]


def test_too_many_failures_end_the_job_and_a_higher_limit_resumes_it(
    tmp_path, translate, write_rows
):
    path = write_rows([*rows_of(10), {"text": 1}, {"text": "explode"}, {"text": 2}])
    with pytest.raises(JobError, match=r"row 1[12].*: (not|it) .* --max-failures 2 allows"):
        translate(path, max_failures=2, shard_rows=5)
    assert (tmp_path / "out/data/part-00001.jsonl").exists()
    assert not (tmp_path / "out/manifest.json").exists()
    assert translate(path, max_failures=3, shard_rows=5).job.failed_rows == 3


def test_truncated_output_is_flagged(tmp_path, translate, write_rows):
    translate(write_rows(rows_of(1)), generation=GenerationOptions(max_new_tokens=2))
    assert read_rows(tmp_path / "out")[0]["_hala"]["flags"] == ["truncated"]


def test_drop_flagged_leaves_rows_out_and_keeps_ids(tmp_path, translate, write_rows):
    rows = [{"text": "good one"}, {"text": ""}, {"text": 7}, {"text": "good two"}]
    for format in ("jsonl", "parquet"):
        out = tmp_path / format
        source = write_rows(rows)
        result = translate(source, output=out, format=format, drop_flagged=True)
        assert [row["_hala"]["id"] for row in read_rows(out, format)] == [0, 3]
        assert (result.job.rows, result.job.rows_written) == (4, 2)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["counts"]["flags"] == {"empty": 1}


def test_the_card_of_a_job_that_dropped_every_row_names_no_files(tmp_path, translate, write_rows):
    result = translate(write_rows([{"text": ""}, {"text": " "}]), drop_flagged=True)
    assert (result.job.rows, result.job.rows_written) == (2, 0)
    card = (tmp_path / "out/README.md").read_text()
    assert "data_files" not in card
    assert "2 rows that failed or had a flag were left out" in card


def test_limit(tmp_path, translate, write_rows):
    path = write_rows(rows_of(10))
    path.write_text(path.read_text() + "broken beyond the limit\n")
    assert translate(path, limit=7, shard_rows=5).job.rows == 7
    assert [row["_hala"]["id"] for row in read_rows(tmp_path / "out")] == list(range(7))


def test_parts_of_a_job_join_to_the_whole(tmp_path, translate, write_rows):
    path = write_rows(rows_of(23))
    translate(path, output=tmp_path / "whole", shard_rows=4)
    parts = {}
    for index in (1, 2, 3):
        translate(path, output=tmp_path / f"p{index}", shard_rows=4, shard=(index, 3))
        for file in (tmp_path / f"p{index}" / "data").iterdir():
            assert file.name not in parts
            parts[file.name] = file.read_bytes()
    assert parts == {f.name: f.read_bytes() for f in (tmp_path / "whole/data").iterdir()}
    with pytest.raises(InputError, match="makes only 6 shards"):
        translate(path, output=tmp_path / "p9", shard_rows=4, shard=(1, 9))


def test_sampling_depends_on_the_seed_and_the_text_alone(tmp_path, translate, write_rows):
    def run(name, rows, seed):
        options = GenerationOptions(temperature=1.0, seed=seed)
        translate(write_rows(rows, f"{name}.jsonl"), output=tmp_path / name, generation=options)
        return {row["text"]: row["text_ar"] for row in read_rows(tmp_path / name)}

    first = run("a", rows_of(5), 0)
    assert len(set(first.values())) == 5
    assert run("b", rows_of(5)[::-1], 0) == first
    assert run("c", rows_of(5), 1) != first


def test_the_manifest_tells_what_was_done(tmp_path, translate, write_rows):
    path = write_rows(rows_of(5))
    translate(path, shard_rows=2)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["inputs"] == [
        {
            "path": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "rows": 5,
        }
    ]
    assert manifest["model"]["fingerprint"] == "fake-1"
    assert manifest["config"]["prompt"] == "Translate from English to Arabic: {text}"
    assert manifest["counts"]["rows"] == 5
    assert manifest["versions"]["hala-engine"]
    for shard in manifest["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert len(data) == shard["bytes"]


def test_the_card_tells_datasets_where_the_rows_are(tmp_path, translate, write_rows):
    translate(write_rows(rows_of(2)))
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\n")
    assert "path: data/part-*.jsonl\n" in card.split("---\n")[1]


def test_a_finished_job_is_left_alone_and_the_model_not_loaded(
    tmp_path, translate, engine, write_rows, monkeypatch
):
    path = write_rows(rows_of(5))
    translate(path)
    before = result_bytes(tmp_path / "out")
    monkeypatch.setattr("hala_engine.jobs.job.load_engine", None)
    result = translate(path)
    assert result.already_complete
    assert result.job.rows == 5
    assert result_bytes(tmp_path / "out") == before


def test_a_shard_that_was_lost_or_cut_is_made_again(tmp_path, translate, write_rows):
    path = write_rows(rows_of(10))
    translate(path, shard_rows=3)
    before = result_bytes(tmp_path / "out")
    (tmp_path / "out/data/part-00001.jsonl").unlink()
    os.truncate(tmp_path / "out/data/part-00002.jsonl", 10)
    assert translate(path, shard_rows=3).run.rows == 6
    assert result_bytes(tmp_path / "out") == before


CHANGES = {
    "--target: 'ar' -> 'fa'": {"target": "fa"},
    "--prompt: 'Translate from": {"prompt": "hala"},
    "--temperature: 0.0 -> 0.7": {"generation": GenerationOptions(temperature=0.7)},
    "--shard-rows: 10000 -> 3": {"shard_rows": 3},
    "--format: 'jsonl' -> 'parquet'": {"format": "parquet"},
    "--limit: None -> 2": {"limit": 2},
}


@pytest.mark.parametrize("difference", CHANGES)
def test_another_configuration_is_refused_by_name(tmp_path, translate, write_rows, difference):
    path = write_rows(rows_of(5))
    translate(path)
    before = result_bytes(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        translate(path, **CHANGES[difference])
    assert difference in str(caught.value)
    assert result_bytes(tmp_path / "out") == before
    translate(path, overwrite=True, **CHANGES[difference])


def test_another_input_or_model_is_refused(tmp_path, translate, engine, write_rows):
    path = write_rows(rows_of(5))
    translate(path, shard_rows=2)
    path.write_text(path.read_text().replace("hello", "HELLO"))
    with pytest.raises(InputError, match=r"input: rows.jsonl \(sha256 \w+, 5 rows\) -> rows.jsonl"):
        translate(path, shard_rows=2)
    write_rows(rows_of(5))
    (tmp_path / "out/data/part-00001.jsonl").unlink()
    engine.fingerprint = "fake-2"
    with pytest.raises(InputError, match="model fingerprint: fake-1 -> fake-2"):
        translate(path, shard_rows=2)


def test_a_finished_job_with_another_model_is_refused(tmp_path, translate, engine, write_rows):
    path = write_rows(rows_of(5))
    translate(path)
    assert translate(path, model="another name of the same").already_complete
    engine.fingerprint = "fake-2"
    with pytest.raises(InputError, match="model fingerprint: fake-1 -> fake-2"):
        translate(path, model="other")


def test_a_job_whose_progress_is_gone_is_not_written_over(tmp_path, translate, write_rows):
    path = write_rows(rows_of(5))
    translate(path, shard_rows=2)
    before = result_bytes(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/.progress")
    for _ in range(2):
        with pytest.raises(InputError, match=r"without the record of how far it came"):
            translate(path, shard_rows=3)
        assert result_bytes(tmp_path / "out") == before
    translate(path, shard_rows=3, overwrite=True)
    assert len(read_rows(tmp_path / "out")) == 5


def test_a_damaged_record_makes_its_shard_again(tmp_path, translate, write_rows):
    path = write_rows(rows_of(5))
    translate(path, shard_rows=2)
    before = result_bytes(tmp_path / "out")
    (tmp_path / "out/.progress/part-00001.json").write_text("{")
    assert translate(path, shard_rows=2).run.rows == 2
    assert result_bytes(tmp_path / "out") == before


def test_the_format_may_be_named_on_resume(translate, write_rows):
    path = write_rows(rows_of(5))
    translate(path)
    assert translate(path, format="jsonl").already_complete


def test_a_column_of_another_type_is_refused_before_work(translate, write_rows):
    path = write_rows([{"text": "a", "n": 1, "m": ["a"]}, {"text": "b", "n": 2, "m": []}])
    with pytest.raises(InputError, match=r"rows.jsonl: column 'n' is int64, not text"):
        translate(path, columns=("n",))
    with pytest.raises(InputError, match=r"column 'text' is string, not a list of messages"):
        translate(path, columns=(), messages_column="text")


def test_the_same_input_touched_or_moved_is_the_same_job(tmp_path, translate, write_rows):
    path = write_rows(rows_of(5))
    translate(path)
    os.utime(path, (1, 1))
    assert translate(path).already_complete
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert translate(moved).already_complete


def test_speed_flags_may_change_on_resume():
    def identity(**engine):
        from hala_engine.translate import EngineOptions

        config = TranslateConfig(inputs=("a",), output="b", engine=EngineOptions(**engine))
        return config.identity()

    assert identity(max_batch_size=2) == identity(memory_utilization=0.5)
    assert identity(dtype="float32") != identity()


def test_a_smaller_context_is_refused_on_resume(tmp_path, translate, engine, write_rows):
    path = write_rows(rows_of(5))
    translate(path, shard_rows=2)
    (tmp_path / "out/data/part-00001.jsonl").unlink()
    engine.max_model_len = 300
    with pytest.raises(InputError, match="context of 512 tokens, memory now holds 300"):
        translate(path, shard_rows=2)


def test_overwrite_removes_our_files_and_no_others(tmp_path, translate, write_rows):
    path = write_rows(rows_of(10))
    translate(path, shard_rows=2)
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "out/data/extra.jsonl").write_text("mine")
    translate(path, shard_rows=5, overwrite=True)
    names = sorted(f.name for f in (tmp_path / "out/data").iterdir())
    assert names == ["extra.jsonl", "part-00000.jsonl", "part-00001.jsonl"]
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_overwrite_keeps_the_old_job_when_the_new_one_cannot_begin(tmp_path, translate, write_rows):
    path = write_rows(rows_of(3))
    translate(path)
    before = result_bytes(tmp_path / "out")
    with pytest.raises(InputError):
        translate(tmp_path / "missing.jsonl", overwrite=True)
    with pytest.raises(InputError):
        translate(path, overwrite=True, columns=("nope",))
    assert result_bytes(tmp_path / "out") == before


def test_a_directory_of_somebody_else_is_refused(tmp_path, translate, write_rows):
    path = write_rows(rows_of(3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no job of hala-engine"):
        translate(path)
    (tmp_path / "out/README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README.md is not from a job of hala-engine"):
        translate(path, overwrite=True)
    (tmp_path / "out/README.md").unlink()
    translate(path, overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"


def test_an_input_inside_the_output_is_refused(tmp_path, translate, write_rows):
    translate(write_rows(rows_of(3)))
    with pytest.raises(InputError, match="lies in --output"):
        translate(tmp_path / "out/data", overwrite=True)


def test_two_processes_on_one_directory(tmp_path, translate, write_rows):
    path = write_rows(rows_of(3))
    translate(path)
    with (tmp_path / "out/.progress/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            translate(path)


def test_a_refused_job_leaves_no_directory(tmp_path, translate, write_rows):
    with pytest.raises(InputError):
        translate(write_rows([{"other": "a"}]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"txet": "a", "n": 1}], r"no column 'text'; it has 'txet', 'n'; did you mean 'txet'\?"),
        ([{"text": "a", "text_ar": "b"}], "already has a column 'text_ar'"),
        ([{"text": "a", "_hala": {}}], "has a column '_hala'"),
        ([], "no rows; give a file that is not empty"),
    ],
)
def test_columns_are_checked_before_work(translate, write_rows, rows, message):
    with pytest.raises(InputError, match=message):
        translate(write_rows(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "English"}, "--source 'English' is no language code"),
        ({"columns": ("a", "a")}, "names a column twice"),
        ({"format": "xml"}, "--format 'xml'"),
        ({"shard": (5, 4)}, "--shard 5/4"),
        ({"shard_rows": 0}, "--shard-rows 0: must be 1 or more"),
        ({"limit": 0}, "--limit 0"),
        ({"generation": GenerationOptions(top_p=2)}, "--top-p must be"),
        ({"generation": GenerationOptions(max_new_tokens=-1)}, "max-new-tokens"),
        ({"prompt": "nothing"}, "must hold"),
    ],
)
def test_flags_are_checked_before_anything_is_read(tmp_path, translate, options, message):
    with pytest.raises(InputError, match=message):
        translate(tmp_path / "does-not-exist.jsonl", **options)


def test_a_file_that_is_being_written_is_not_written_by_another(tmp_path):
    path = tmp_path / "rows.jsonl"
    (tmp_path / ".rows.jsonl.tmp").write_bytes(b"left by a killed process")
    with atomic_file(path) as first:
        first.write(b"first")
        with pytest.raises(InputError, match="another process"), atomic_file(path):
            pass
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
