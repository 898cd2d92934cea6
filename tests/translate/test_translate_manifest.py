"""manifest.json: enough to know what was done and to do it again, and nothing that is made up."""

import hashlib
import json
import platform
import shlex
from collections import Counter
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from translate_jobs import read_rows, run_command

import hala_engine.translate
from hala_engine.errors import InputError, JobError
from hala_engine.jobs import manifest as manifest_module
from hala_engine.translate import CheckOptions, GenerationOptions


def manifest_of(output):
    return json.loads((output / "manifest.json").read_text())


def mixed_rows(count):
    """With flags, failures and repeated texts among them."""
    texts = ["Hello {name}", "explode", "", "Row `x` says hello", 5, "one two three four five"]
    return [{"text": texts[index % len(texts)], "n": index} for index in range(count)]


def run_again(command, output):
    """The manifest's command, with another output, as a user runs it."""
    tool, kind, *arguments = shlex.split(command)
    assert (tool, kind) == ("hala-engine", "translate")
    arguments[arguments.index("--output") + 1] = str(output)
    return run_command(*arguments)


def digests(output):
    return {shard["file"]: shard["sha256"] for shard in manifest_of(output)["shards"]}


MANY_FLAGS = [
    *("--columns", "q, a b", "--messages-column", "chat", "--copied-roles", "tool,data base"),
    *("--source", "fr", "--target", "fa", "--no-chat-template", "--max-segment-tokens", 40),
    *("--prompt", "Say  this in Farsi, it's $HOME {text}", "--format", "jsonl"),
    *("--max-new-tokens", 90, "--temperature", 0.7, "--top-p", 0.9, "--top-k", 5, "--seed", 3),
    *("--repetition-penalty", 1.1, "--min-p", 0.01, "--stop", "\n\n", "--stop", "--x y"),
    *("--min-length-ratio", 0.5, "--max-length-ratio", 9, "--min-script-share", 0.4),
    *("--max-loop-words", 5, "--min-compression", 0.3, "--max-copied-words", 4),
    *("--shard-rows", 2, "--shard", "2/3", "--limit", 13, "--max-failures", 8),
    *("--max-batch-size", 4, "--deterministic", "--no-prefix-caching", "--dtype", "float32"),
]


def test_the_command_of_a_job_with_many_flags_makes_the_same_files(tmp_path):
    chat = [{"role": role, "content": f"{role} words"} for role in ("user", "data base", "gpt")]
    rows = [{"q": f"Question {n} `x`", "a b": f"Answer {n}. " * n, "chat": chat} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in put.parquet")
    out, again = tmp_path / "it's out", tmp_path / "again"
    done = run_command(tmp_path / "in put.parquet", "--output", out, *MANY_FLAGS)
    assert done.returncode == 0, done.stderr
    first = manifest_of(out)
    assert first["config"]["shard"] == [2, 3] and len(first["shards"]) == 2
    assert list(read_rows(out)[0]) == [*rows[0], "q_fa", "a b_fa", "chat_fa", "_hala"]
    assert run_again(first["command"], again).returncode == 0
    assert digests(again) == digests(out)
    second = manifest_of(again)
    assert second["config"] == first["config"] | {"output": str(again)}
    assert second["counts"] == first["counts"]
    # To the job that is there, the command is the same.
    done = run_command(*shlex.split(first["command"])[2:])
    assert done.stdout.startswith("already complete")


def test_the_command_of_a_job_of_chats_alone_makes_the_same_files(tmp_path, write_rows):
    path = write_rows([{"chat": [{"from": "human", "value": f"Row {n}"}]} for n in range(5)])
    flags = ["--messages-column", "chat", "--format", "parquet"]
    assert run_command(path, "--output", tmp_path / "out", *flags).returncode == 0
    assert run_again(manifest_of(tmp_path / "out")["command"], tmp_path / "again").returncode == 0
    assert digests(tmp_path / "again") == digests(tmp_path / "out")


@pytest.mark.parametrize("drop", [False, True], ids=["all rows", "without flagged"])
def test_counts_are_those_of_the_rows_and_add_up_over_shards_and_parts(
    tmp_path, translate, write_rows, drop
):
    path = write_rows(mixed_rows(45))
    options = {
        "shard_rows": 4,
        "drop_flagged": drop,
        "generation": GenerationOptions(max_new_tokens=4),
    }
    translate(path, output=tmp_path / "whole", **options)
    counts = manifest_of(tmp_path / "whole")["counts"]
    failures = (tmp_path / "whole/failures.jsonl").read_text().splitlines()
    written = read_rows(tmp_path / "whole")
    assert (counts["rows"], counts["rows_written"]) == (45, len(written))
    assert counts["failed_rows"] == len({json.loads(line)["row"] for line in failures}) == 15
    assert sum(s["rows"] for s in manifest_of(tmp_path / "whole")["shards"]) == len(written)
    infos = [row["_hala"] for row in written]
    if not drop:
        assert counts["flags"] == Counter(flag for info in infos for flag in info["flags"])
        assert counts["flags"].keys() == {"truncated", "empty"}
        assert counts["prompt_tokens"] == sum(info["prompt_tokens"] for info in infos)
        assert counts["output_tokens"] == sum(info["output_tokens"] for info in infos)
    parts = Counter()
    for index in (1, 2, 3):
        out = tmp_path / f"part{index}"
        translate(path, output=out, shard=(index, 3), **options)
        part = manifest_of(out)["counts"]
        parts.update(part.pop("flags"))
        parts.update(part)
    whole = Counter(counts.pop("flags"))
    whole.update(counts)
    assert parts == whole


def test_failures_of_all_shards_and_runs_count_against_the_limit(tmp_path, translate, write_rows):
    """A row once, however many of its columns fail."""
    bad, good = {"a": 1, "b": "explode"}, {"a": "hello", "b": "there"}
    path = write_rows([bad, good, bad, good, bad, good])
    options = {"columns": ("a", "b"), "shard_rows": 2}
    for output in ("at once", "again", "again"):
        with pytest.raises(JobError, match=r"column 'a': not.*--max-failures 2 allows"):
            translate(path, output=tmp_path / output, max_failures=2, **options)
    translate(path, output=tmp_path / "again", max_failures=3, **options)
    assert manifest_of(tmp_path / "again")["counts"]["failed_rows"] == 3


def failed_rows(output):
    return [
        json.loads(line)["row"] for line in (output / "failures.jsonl").read_text().splitlines()
    ]


def test_failures_are_told_as_shards_are_finished_in_the_rows_order(
    tmp_path, translate, engine, write_rows
):
    """Of a shard that is made again once, and in its place."""
    path, out = write_rows([{"text": 5}, {"text": "hello"}] * 3), tmp_path / "out"
    translate(path, shard_rows=2)
    assert failed_rows(out) == [0, 2, 4]
    (out / "data/part-00001.jsonl").unlink()
    engine.fingerprint = "another model"
    with pytest.raises(InputError):
        translate(path, shard_rows=2)
    engine.fingerprint = "fake-1"
    with pytest.raises(JobError):
        translate(path, shard_rows=2, max_failures=2)
    assert failed_rows(out) == [0, 4]
    translate(path, shard_rows=2)
    assert failed_rows(out) == [0, 2, 4]


def test_failures_are_told_before_the_job_is_done(tmp_path, translate, write_rows):
    path = write_rows([{"text": 5}, {"text": "hello"}, {"text": 6}])
    with pytest.raises(JobError):
        translate(path, shard_rows=2, max_failures=1)
    assert failed_rows(tmp_path / "out") == [0]


def test_the_manifest_comes_last(tmp_path, translate, write_rows):
    """It says that the job is done: when the card cannot be written there is none, and the next run
    writes both."""

    def broken(*arguments):
        raise OSError(28, "No space left on device")

    path, out = write_rows(mixed_rows(3)), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hala_engine.translate, "make_card", broken)
        with pytest.raises(JobError, match="No space left on device"):
            translate(path)
    assert not (out / "manifest.json").exists()
    assert translate(path).run.rows == 0
    assert (out / "README.md").exists() and manifest_of(out)["counts"]["rows"] == 3


def test_the_tokens_of_a_failed_row_are_those_that_it_cost(tmp_path, translate, engine, write_rows):
    translate(write_rows([{"text": "explode"}]))
    [row] = read_rows(tmp_path / "out")
    asked = len(engine.tokenizer.encode("Translate from English to Arabic: explode"))
    assert (row["_hala"]["prompt_tokens"], row["_hala"]["output_tokens"]) == (asked, 0)


def test_versions_model_and_inputs_are_what_ran(tmp_path, translate, engine, write_rows):
    path = write_rows(mixed_rows(5))
    engine.fingerprint = "0123abcd" * 8
    before = datetime.now(UTC)
    translate(path, output=tmp_path / "out", model="a/name", revision="v2")
    manifest = manifest_of(tmp_path / "out")
    assert manifest["versions"]["python"] == platform.python_version()
    packages = manifest["versions"].keys() - {"python"}
    assert {"hala-engine", "torch", "transformers", "tokenizers"} <= packages
    assert all(manifest["versions"][name] == version(name) for name in packages)
    assert manifest["model"] == {"path": "/models/fake", "fingerprint": "0123abcd" * 8}
    assert (manifest["config"]["model"], manifest["config"]["revision"]) == ("a/name", "v2")
    [given] = manifest["inputs"]
    assert given["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    finished = datetime.fromisoformat(manifest["finished"])
    assert before - timedelta(seconds=1) <= finished <= datetime.now(UTC)
    seconds = sum(shard["seconds"] for shard in manifest["shards"])
    assert manifest["wall_seconds"] == pytest.approx(seconds, abs=0.01)


def test_what_is_not_there_is_not_made_up(tmp_path, translate, write_rows, monkeypatch):
    """Packages that are missing, files that were not read, values that nobody gave."""
    monkeypatch.setattr(manifest_module, "_PACKAGES", ("hala-engine", "no-such-package"))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        write_rows([{"text": f"{name} {n}"} for n in range(3)], f"in/{name}.jsonl")
    translate(folder, limit=2)
    manifest = manifest_of(tmp_path / "out")
    assert manifest["versions"]["no-such-package"] == "not installed"
    read, unread = manifest["inputs"]
    assert (read["rows"], unread["rows"], unread["sha256"]) == (2, 0, None)
    assert manifest["config"]["revision"] is manifest["config"]["system"] is None
    assert manifest["config"]["generation"]["max_new_tokens"] is None
    assert manifest["counts"]["flags"] == {}
    assert manifest.keys() == {
        "tool",
        "command",
        "versions",
        "finished",
        "wall_seconds",
        "model",
        "config",
        "inputs",
        "counts",
        "shards",
    }


def test_the_format_and_thresholds_that_were_used_are_recorded(tmp_path, translate, write_rows):
    translate(write_rows(mixed_rows(3)), checks=CheckOptions(max_loop_words=5))
    config = manifest_of(tmp_path / "out")["config"]
    assert config["format"] == "jsonl"
    assert config["checks"]["max_loop_words"] == 5
    assert config["checks"].keys() == CheckOptions.__dataclass_fields__.keys()
    assert config["generation"].keys() == GenerationOptions.__dataclass_fields__.keys()
