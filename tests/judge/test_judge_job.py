"""What one judge's job promises while nothing crashes."""

import json
import math
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from judge_outputs import numbers, read_failures, read_rows, result_bytes

from hala_engine.cli import main
from hala_engine.errors import InputError, JobError


def pairs(*probabilities):
    """One row a probability, numbered."""
    return [{"en": f"text {n}", "ar": f"نص p{p}", "n": n} for n, p in enumerate(probabilities)]


def test_pairs_go_where_the_likelier_verdict_says(tmp_path, judge, write_rows):
    result = judge(write_rows(pairs(0.9, 0.2, 0.6, 0.4)))
    assert result.job.written == {"accepted": 2, "rejected": 2}
    assert numbers(tmp_path / "out", "accepted") == [0, 2]
    assert numbers(tmp_path / "out", "rejected") == [1, 3]
    row = read_rows(tmp_path / "out", "accepted")[1]
    info = row.pop("_hala")
    assert row == {"en": "text 2", "ar": "نص p0.6", "n": 2}
    assert info.pop("prompt_tokens") > 100
    assert info.pop("score") == pytest.approx(0.6)
    assert info.pop("accept_logprob") == pytest.approx(math.log(0.9 * 0.6))
    assert info.pop("reject_logprob") == pytest.approx(math.log(0.9 * 0.4))
    assert info == {"id": 2, "flags": [], "output_tokens": 1}


def test_the_threshold_moves_rows_and_is_itself_accepted(tmp_path, judge, write_rows):
    path = write_rows(pairs(0.9, 0.2, 0.5, 0.4))
    for threshold, accepted in ((0, [0, 1, 2, 3]), (0.3, [0, 2, 3]), (0.5, [0, 2]), (0.95, [])):
        out = tmp_path / str(threshold)
        judge(path, output=out, threshold=threshold)
        assert numbers(out, "accepted") == accepted
        assert numbers(out, "rejected") == [n for n in range(4) if n not in accepted]


def test_a_repeated_pair_is_judged_once_in_the_whole_job(tmp_path, judge, engine, write_rows):
    rows = pairs(0.9, 0.2)
    rows += [{"en": " text 0\n", "ar": "نص p0.9 ", "n": 2}, {"en": "text 0", "ar": "x", "n": 3}]
    result = judge(write_rows(rows * 5), shard_rows=3)
    assert len(engine.seen) == len(set(engine.seen)) == 3
    assert result.job.written == {"accepted": 15, "rejected": 5}
    assert result.job.output_tokens == 20
    assert result.tokens_written == 3


def test_pairs_that_join_to_the_same_text_are_different_pairs(judge, engine, write_rows):
    judge(write_rows([{"en": "ab", "ar": "c"}, {"en": "a", "ar": "bc"}]))
    assert sorted(engine.seen) == [("a", "bc"), ("ab", "c")]


def test_an_empty_side_is_rejected_unseen(tmp_path, judge, engine, write_rows):
    rows = [{"en": "", "ar": "نص"}, {"en": "text", "ar": " \n"}, *pairs(0.9)]
    result = judge(write_rows(rows), threshold=0)
    assert engine.seen == [("text 0", "نص p0.9")]
    assert (result.job.failed_rows, result.job.flags) == (0, {"empty": 2})
    for row in read_rows(tmp_path / "out", "rejected"):
        info = row["_hala"]
        assert (info["flags"], info["prompt_tokens"], info["score"]) == (["empty"], 0, 0.0)
        assert info["accept_logprob"] is info["reject_logprob"] is None


def test_a_row_that_cannot_be_judged_is_reported_and_in_neither_folder(tmp_path, judge, write_rows):
    rows = [
        *pairs(0.9, 0.2),
        {"en": None, "ar": "نص"},
        {"en": 5, "ar": ["a"]},
        {"en": "text", "ar": "explode"},
        {"ar": "نص"},
        {"en": "text", "ar": "broken"},
        {"en": "text", "ar": "explode"},
        {"en": "long " * 600, "ar": "طويل"},
    ]
    result = judge(write_rows(rows), shard_rows=4)
    assert result.job.failed_rows == 7
    ids = [read_rows(tmp_path / "out", name) for name in ("accepted", "rejected")]
    assert [[row["_hala"]["id"] for row in rows] for rows in ids] == [[0], [1]]
    failures = [tuple(line.values()) for line in read_failures(tmp_path / "out")]
    *first, (row, columns, reason) = failures
    assert first == [
        (2, "en", "null or missing"),
        (3, "en", "not text but int"),
        (3, "ar", "not text but list"),
        (4, "en,ar", "it exploded"),
        (5, "en", "null or missing"),
        (6, "en,ar", "the model gave no finite log-probabilities"),
        (7, "en,ar", "it exploded"),
    ]
    assert (row, columns) == (8, "en,ar")
    assert reason.startswith("the prompt has 7") and reason.endswith("the context is 512")


def test_too_many_failures_end_the_job_and_a_higher_limit_resumes_it(tmp_path, judge, write_rows):
    bad = [{"en": 1, "ar": "a"}, {"en": "text", "ar": "explode"}, {"en": "text", "ar": "explode"}]
    path = write_rows([*pairs(0.9, 0.2, 0.9, 0.2, 0.9), *bad])
    with pytest.raises(JobError, match=r"column 'en,ar': it ex.*--max-failures 2 allows"):
        judge(path, max_failures=2, shard_rows=5)
    assert (tmp_path / "out/accepted/part-00000.jsonl").exists()
    assert not (tmp_path / "out/manifest.json").exists()
    assert judge(path, max_failures=3, shard_rows=5).job.failed_rows == 3


def as_parquet(rows, path):
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_csv(rows, path):
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def as_jsonl(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


FORMS = {"jsonl": as_jsonl, "parquet": as_parquet, "csv": as_csv}


@pytest.mark.parametrize("out_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_verdicts_do_not_depend_on_the_files_form(tmp_path, judge, form, out_format):
    path = tmp_path / f"pairs.{form}"
    FORMS[form](pairs(0.9, 0.2, 0.6, 0.4, 0.7), path)
    judge(path, format=out_format, shard_rows=2)
    out = tmp_path / "out"
    accepted, rejected = (read_rows(out, name, out_format) for name in ("accepted", "rejected"))
    assert [int(row["n"]) for row in accepted] == [0, 2, 4]
    assert [int(row["n"]) for row in rejected] == [1, 3]
    assert [round(row["_hala"]["score"], 6) for row in accepted] == [0.9, 0.6, 0.7]


def test_parquet_keeps_types_and_has_nulls_where_nothing_was_asked(tmp_path, judge):
    rows = [*pairs(0.9, 0.2), {"en": "", "ar": "نص", "n": 2}]
    table = pa.Table.from_pylist(rows).set_column(2, "n", pa.array([0, 1, 2], pa.int16()))
    pq.write_table(table, tmp_path / "pairs.parquet")
    judge(tmp_path / "pairs.parquet", shard_rows=1)
    schemas = {pq.read_schema(path) for path in (tmp_path / "out").glob("*/part-*.parquet")}
    assert len(schemas) == 1
    [schema] = schemas
    assert schema.field("n").type == pa.int16()
    numbers = [schema.field("_hala").type.field(name).type for name in ("score", "accept_logprob")]
    assert numbers == [pa.float64(), pa.float64()]
    info = read_rows(tmp_path / "out", "rejected", "parquet")[1]["_hala"]
    assert (info["score"], info["accept_logprob"], info["flags"]) == (0.0, None, ["empty"])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_texts_may_be_fields_of_a_column(tmp_path, judge, form):
    """As in OPUS-100: {"translation": {"ar": ..., "en": ...}}."""
    rows = [{"translation": {"ar": r["ar"], "en": r["en"]}} for r in pairs(0.9, 0.2)]
    rows += [{"translation": {"en": "text", "ar": None}}, {"translation": None}]
    FORMS[form](rows, tmp_path / f"pairs.{form}")
    columns = {"source_column": "translation.en", "target_column": "translation.ar"}
    result = judge(tmp_path / f"pairs.{form}", **columns)
    assert (result.job.written, result.job.failed_rows) == ({"accepted": 1, "rejected": 1}, 2)
    [row] = read_rows(tmp_path / "out", "accepted", form)
    assert row["translation"] == rows[0]["translation"]
    columns = [line["column"] for line in read_failures(tmp_path / "out")]
    assert columns == ["translation.ar", "translation.en", "translation.ar"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("translation.en", r"is struct<ar: string>, without a field 'en'"),
        ("translation.ar.x", r"is string, without a field 'x'"),
        ("translation", r"is struct<ar: string>, not text"),
        ("n", r"column 'n' is int64, not text"),
    ],
)
def test_a_table_whose_types_cannot_be_texts_is_refused(tmp_path, judge, column, message):
    as_parquet([{"translation": {"ar": "a"}, "n": 1}], tmp_path / "pairs.parquet")
    with pytest.raises(InputError, match=message):
        judge(tmp_path / "pairs.parquet", source_column=column, target_column="translation.ar")


def test_a_missing_column_is_refused(tmp_path, judge, write_rows):
    with pytest.raises(InputError, match=r"no column 'en'; it has 'eng', 'ar'; did you mean 'eng'"):
        judge(write_rows([{"eng": "a", "ar": "b"}]))
    with pytest.raises(InputError, match="--source-column and --target-column are both 'ar'"):
        judge(write_rows([{"ar": "b"}]), source_column="ar")
    with pytest.raises(InputError, match=r"--source-column 'a\.'"):
        judge(write_rows([{"ar": "b"}]), source_column="a.")
    assert not (tmp_path / "out").exists()


def test_verdicts_that_the_model_cannot_tell_apart_are_refused(tmp_path, judge, write_rows):
    with pytest.raises(InputError, match="--verdicts yes it is,yes: both begin with the same"):
        judge(write_rows(pairs(0.9)), verdicts=("yes it is", "yes"), chat_template=False)
    assert not (tmp_path / "out").exists()


CHANGES = {
    "--threshold: 0.5 -> 0.7": {"threshold": 0.7},
    "--instruction: 'You are a strict": {"instruction": "Judge."},
    "--verdicts: ['accept', 'reject'] -> ['yes', 'no']": {"verdicts": ("yes", "no")},
    "--chat-template: True -> False": {"chat_template": False},
    "--target-column: 'ar' -> 'en_ar'": {"target_column": "en_ar"},
}


@pytest.mark.parametrize("difference", CHANGES)
def test_another_configuration_is_refused_by_name(tmp_path, judge, write_rows, difference):
    path = write_rows([row | {"en_ar": "c"} for row in pairs(0.9, 0.2)])
    judge(path)
    before = result_bytes(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        judge(path, **CHANGES[difference])
    assert difference in str(caught.value)
    assert result_bytes(tmp_path / "out") == before
    judge(path, overwrite=True, **CHANGES[difference])
    assert result_bytes(tmp_path / "out") != before


def test_overwrite_leaves_no_shard_of_the_earlier_job(tmp_path, judge, write_rows):
    path = write_rows(pairs(0.9, 0.2, 0.6))
    judge(path)
    (tmp_path / "out/rejected/notes.txt").write_text("mine")
    judge(path, overwrite=True, threshold=0)
    assert [file.name for file in (tmp_path / "out/rejected").iterdir()] == ["notes.txt"]
    assert numbers(tmp_path / "out", "accepted") == [0, 1, 2]


def test_parts_of_a_job_join_to_the_whole(tmp_path, judge, write_rows):
    path = write_rows(pairs(*(round(0.1 + i / 30, 2) for i in range(23))))
    judge(path, output=tmp_path / "whole", shard_rows=4)

    def shards(output):
        return {file: data for file, data in result_bytes(output).items() if "part-" in file}

    parts = {}
    for index in (1, 2, 3):
        judge(path, output=tmp_path / f"p{index}", shard_rows=4, shard=(index, 3))
        assert not parts.keys() & shards(tmp_path / f"p{index}").keys()
        parts |= shards(tmp_path / f"p{index}")
    assert parts == shards(tmp_path / "whole")


def test_limit(tmp_path, judge, write_rows):
    assert judge(write_rows(pairs(0.9, 0.2, 0.6)), limit=2).job.rows == 2


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_a_crash_anywhere_and_a_rerun_give_the_bytes_of_an_unbroken_run(
    tmp_path, judge, engine, write_rows, invariant, monkeypatch
):
    monkeypatch.setattr("hala_engine.jobs.blocks.BLOCK_BATCHES", 1)
    rows = pairs(*(round(0.1 + (i % 30) * 0.025, 3) for i in range(60)))
    rows[7]["en"] = None
    rows[20]["ar"] = ""
    rows[33]["ar"] = "explode"
    path = write_rows(rows)
    engine.invariant = invariant
    judge(path, output=tmp_path / "unbroken", shard_rows=25)
    generate = engine.generate
    for after in range(0, 58, 5):
        given = iter(range(after))

        def crashing(*args, given=given, **options):
            for output in generate(*args, **options):
                if next(given, None) is None:
                    raise PowerCut
                yield output

        out = tmp_path / f"out{after}"
        engine.generate = crashing
        with pytest.raises(PowerCut):
            judge(path, output=out, shard_rows=25)
        engine.generate = generate
        engine.seen.clear()
        judge(path, output=out, shard_rows=25)
        assert result_bytes(out) == result_bytes(tmp_path / "unbroken")
        assert len(engine.seen) <= 58 - after + (0 if invariant else 8) + 8


def test_a_resumed_job_keeps_the_context_of_the_first_run(tmp_path, judge, engine, write_rows):
    """A machine with more room must not judge what the first one called too long."""
    path = write_rows([*pairs(0.9), {"en": "long " * 600, "ar": "طويل", "n": 1}])
    judge(path, shard_rows=1)
    before = result_bytes(tmp_path / "out")
    (tmp_path / "out/.progress/part-00001.json").unlink()
    engine.max_model_len = 4096
    judge(path, shard_rows=1)
    assert result_bytes(tmp_path / "out") == before
    engine.max_model_len = 400
    (tmp_path / "out/.progress/part-00001.json").unlink()
    with pytest.raises(InputError, match="context of 512 tokens, memory now holds 400"):
        judge(path, shard_rows=1)


def test_the_manifest_counts_both_folders_and_names_the_prompt(tmp_path, judge, write_rows):
    judge(write_rows([*pairs(0.9, 0.2, 0.7), {"en": 1, "ar": 2}]), shard_rows=2)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    counts = manifest["counts"]
    assert (counts["rows"], counts["rows_written"], counts["failed_rows"]) == (4, 3, 1)
    assert (counts["accepted"], counts["rejected"]) == (2, 1)
    assert manifest["tool"] == "hala-engine judge"
    assert manifest["config"]["instruction"].startswith("You are a strict bilingual judge.")
    assert [shard["file"] for shard in manifest["shards"]] == [
        "accepted/part-00000.jsonl",
        "rejected/part-00000.jsonl",
        "accepted/part-00001.jsonl",
    ]


def test_the_manifests_command_makes_the_same_again(
    tmp_path, judge, engine, write_rows, monkeypatch
):
    path = write_rows(pairs(0.9, 0.2, 0.7))
    options = {"threshold": 0.8, "verdicts": ("yes", "no"), "instruction": "Judge it's.\n"}
    judge(path, chat_template=False, shard=(1, 2), shard_rows=2, **options)
    command = json.loads((tmp_path / "out/manifest.json").read_text())["command"]
    monkeypatch.setattr("sys.argv", [*shlex.split(command), "--overwrite"])
    before = result_bytes(tmp_path / "out")
    engine.seen.clear()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert len(engine.seen) == 2
    assert result_bytes(tmp_path / "out") == before


def test_the_card_tells_the_rule_and_where_the_splits_are(tmp_path, judge, write_rows):
    judge(write_rows(pairs(0.9, 0.2)), threshold=0.25)
    card = (tmp_path / "out/README.md").read_text()
    head = card.split("---\n")[1]
    assert "  - split: accepted\n    path: accepted/part-*.jsonl\n" in head
    assert "  - split: rejected\n    path: rejected/part-*.jsonl\n" in head
    assert "at least 0.25." in card
    assert "    Answer accept only if all of this is true:" in card


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_datasets_loads_both_splits(tmp_path, judge, write_rows, format):
    import datasets

    rows = [*pairs(0.9, 0.2, 0.8), {"en": "", "ar": "نص", "n": 3}]
    judge(write_rows(rows), format=format, shard_rows=1)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split["n"][:] for name, split in loaded.items()} == {
        "accepted": [0, 2],
        "rejected": [1, 3],
    }
    assert loaded["rejected"][1]["_hala"]["flags"] == ["empty"]
    assert loaded["rejected"][1]["_hala"]["accept_logprob"] is None


def test_a_split_without_rows_is_not_in_the_card(tmp_path, judge, write_rows):
    import datasets

    judge(write_rows(pairs(0.1, 0.2)))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["rejected"]


EARLIER = {"id": 7, "flags": [], "prompt_tokens": 30, "output_tokens": 12}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_translation_is_judged_and_keeps_what_is_known_of_it(tmp_path, judge, write_rows, format):
    """Of its rows none has a flag, as in most of an ordinary one; the judge adds some."""
    rows = [row | {"_hala": EARLIER} for row in pairs(0.9, 0.2)]
    rows.append({"en": "text", "ar": " ", "n": 2, "_hala": EARLIER})
    judge(write_rows(rows), format=format)
    [accepted] = read_rows(tmp_path / "out", "accepted", format)
    unknown = {"accept_logprob": None, "reject_logprob": None}
    assert accepted["_hala"].pop("score") == pytest.approx(0.9)
    assert {**accepted["_hala"], **unknown} == EARLIER | unknown
    [bad, empty] = read_rows(tmp_path / "out", "rejected", format)
    assert bad["_hala"]["flags"] == []
    assert empty["_hala"] == EARLIER | {"flags": ["empty"], "score": 0.0} | unknown
    sets = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert sets["rejected"][1]["_hala"]["flags"] == ["empty"]


@pytest.mark.parametrize("info", ["a text", {"flags": "x"}, {"score": "high"}, {"id": [1]}])
def test_an_info_column_that_no_job_writes_is_refused(judge, write_rows, info):
    with pytest.raises(InputError, match=r"column '_hala' .* which no job writes; drop or rename"):
        judge(write_rows([row | {"_hala": info} for row in pairs(0.9)]))


def test_a_job_whose_rows_all_failed_has_a_card_without_splits(tmp_path, judge, write_rows):
    result = judge(write_rows([{"en": "a", "ar": None}, {"en": None, "ar": "a"}]))
    assert (result.job.failed_rows, result.job.rows_written) == (2, 0)
    assert "data_files" not in (tmp_path / "out/README.md").read_text()
