"""hala-train --dry-run: what it says, from which sample, and how it ends."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hala_trainer.__main__ import run
from hala_trainer.config import DataConfig, OptimConfig, SourceConfig
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.data.documents import load_corpus
from hala_trainer.data.order import PackedRows
from hala_trainer.planning import plan, survey
from hala_trainer.recipe import load_recipe

RECIPES = sorted(Path("trainer/recipes").resolve().glob("*.toml"))
RECIPES.append(Path("examples/train.toml").resolve())


@pytest.fixture
def planned(tmp_path, init_dir, chat_file, capsys):
    """Runs a dry run of a small recipe with overrides: exit code, stdout, stderr."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
[model]
path = "{init_dir}"
init = "random"
[data]
train = ["{chat_file}"]
seq_len = 64
[optim]
lr = 1e-3
warmup_steps = 10
[train]
out = "{tmp_path / "run"}"
steps = 100
global_batch = 16
micro_batch = 2
"""
    )

    def planned(*overrides: str, nproc: int = 1):
        code = run(path, list(overrides), debug=False, nproc=nproc, dry_run=True)
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), err

    planned.recipe = lambda *overrides: load_recipe(path, list(overrides))
    return planned


def test_the_plan_names_model_data_steps_and_memory(planned, init_dir, chat_file, tmp_path):
    code, out, err = planned("data.eval=" + json.dumps([str(chat_file)]), nproc=2)
    assert (code, err) == (0, "")
    assert re.search(r"\(lfm2\): 0\.0M parameters, 4 blocks \(3 conv, 1 full attention\)", out)
    assert out.count(": 120 documents, ") == 2  # train and eval
    assert re.search(r"steps 100 \([\d.]+ epochs\), each of 16 rows, 1,024 tokens: ", out)
    assert "2 processes x 4 forward passes x 2 rows" in out
    assert "rises to 0.001 over 10 steps, then falls as a cosine to 0 at step 100" in out
    assert "every 500 steps" in out and "the newest 2 kept" in out
    assert "memory of one GPU, when it is fullest" in out
    assert re.search(r"in the [\w ]+│ 2\.00 │.* fits: 2\.0 of 80 GB \(80 GB GPU\)$", out)
    assert not (tmp_path / "run").exists()


def test_missing_data_does_not_stop_the_estimate_but_ends_with_2(planned, chat_file):
    files = json.dumps(["nowhere/a.jsonl", str(chat_file), "nowhere/b.jsonl"])
    code, out, err = planned(f"data.train={files}")
    assert code == 2
    assert err == "hala-train: nowhere/a.jsonl: no such data file or folder\n"
    assert "nowhere/a.jsonl: no such" in out and "nowhere/b.jsonl: no such" in out
    assert ": 120 documents" in out and "fits: " in out


def test_without_any_data_the_memory_is_known_all_the_same(planned):
    code, out, err = planned('data.train=["nowhere"]', "train.steps=0", "train.epochs=2")
    assert code == 2 and err.count("\n") == 1
    assert "how full is not known without data" in out and "fits: " in out
    assert "not known without data, each of 16 rows" in out


def test_a_model_that_is_not_there_is_one_line(planned):
    code, out, err = planned('model.path="nowhere"')
    assert code == 2 and out == "" and err.count("\n") == 1 and "nowhere" in err


def test_too_large_names_a_change_that_fits(planned, monkeypatch):
    needs = ["train.micro_batch=256", "train.global_batch=1024", "data.seq_len=2048"]
    monkeypatch.setattr(plan, "ASSUMED_GPU", ("small GPU", 2_900_000_000))
    code, out, _ = planned(*needs)
    assert code == 0
    change, total = re.search(r"too large: .*; (.*) would take ([\d.]+) GB", out).groups()
    assert float(total) <= 2.9
    _, out, _ = planned(*needs, *change.split())
    assert f"fits: {total} of 3 GB (small GPU)" in out


def test_where_nothing_fits_it_says_so(planned, monkeypatch):
    monkeypatch.setattr(plan, "ASSUMED_GPU", ("tiny GPU", 1_000_000_000))
    assert "neither smaller settings nor eight times the GPUs" in planned()[1]


def test_a_run_on_cpus_is_held_against_this_machine(planned):
    assert "GB (this machine's memory / 2)" in planned("train.device=cpu", nproc=2)[1]


def test_the_batch_has_to_divide(planned):
    code, _, err = planned(nproc=3)
    assert code == 2 and "global_batch" in err


def test_steps_of_epochs_are_those_of_the_real_packing(planned, tokenizer, tmp_path):
    r = planned.recipe("train.steps=0", "train.epochs=2.5", "train.global_batch=4")
    corpus = load_corpus(r.data.train, tokenizer, r.data, tmp_path / "cache")
    rows = PackedRows(corpus, [], r.data.seq_len, 0, r.data.seed)
    once = survey.epoch(
        [survey.survey(source, ChatRenderer(tokenizer), r.data) for source in r.data.train], r.data
    )
    assert once.tokens == pytest.approx(corpus.lengths.sum())
    assert once.rows == pytest.approx(len(rows.rows_of_epoch(0)), rel=0.03)
    assert plan.steps(r, once) == pytest.approx(rows.steps(2.5, 4), rel=0.03)


def rows_of(path: Path, words: list[int]) -> str:
    """A file of as many rows as numbers, with answers of so many letters."""
    rows = [{"prompt": "say", "response": "x" * n} for n in words]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_beyond_the_sample_are_reckoned(
    suffix, tmp_path, monkeypatch, tokenizer, planned, init_dir
):
    monkeypatch.setattr(survey, "SAMPLE_ROWS", 20)
    name = rows_of(tmp_path / f"rows{suffix}", [5] * 300)
    found = survey.survey(SourceConfig(name), ChatRenderer(tokenizer), planned.recipe().data)
    assert (found.rows, found.exact, len(found.lengths)) == (300, False, 20)
    assert found.tokens == 300 * found.lengths[0]
    assert 0 < found.supervised < 1


def test_a_folder_is_sampled_through_all_of_it(tmp_path, monkeypatch, tokenizer, planned):
    monkeypatch.setattr(survey, "SAMPLE_FILES", 4)
    for n in range(8):
        rows_of(tmp_path / f"out/data/part-{n:05d}.jsonl", [n + 1] * 10)
    source = SourceConfig(str(tmp_path / "out"))
    found = survey.survey(source, ChatRenderer(tokenizer), planned.recipe().data)
    assert (found.files, found.rows) == (8, 80)
    assert len(set(found.lengths.tolist())) == 4


def test_rows_too_long_are_refused_or_left_out_as_in_training(planned, tmp_path):
    name = json.dumps([rows_of(tmp_path / "rows.jsonl", [5, 5, 500, 5])])
    code, _, err = planned(f"data.train={name}")
    assert code == 2 and "rows.jsonl line 3: " in err and "data.seq_len is 64" in err
    code, _, err = planned(f"data.train={name}", "data.overlong=drop")
    assert (code, err) == (0, "")


def test_an_epoch_weighs_its_sources():
    def source(length: int, rows: int, weight: float = 1.0) -> survey.Source:
        return survey.Source("s", 1, rows, True, np.full(10, length), 0.5, weight=weight)

    once = survey.epoch([source(10, 100), source(30, 100, 3.0)], DataConfig(seq_len=100))
    assert once.tokens == 10 * 100 + 3 * 30 * 100
    assert once.documents.mean() == pytest.approx((10 + 3 * 30) / 4, rel=0.01)
    assert once.fill == pytest.approx(1, abs=0.01) and once.rows == 100
    unpacked = survey.epoch([source(10, 100)], DataConfig(seq_len=100, packing="none"))
    assert (unpacked.rows, unpacked.fill) == (100, pytest.approx(0.1))


def test_the_schedule_is_put_into_words():
    flat = plan.describe_rate(OptimConfig(schedule="constant", warmup_steps=0, clip=0.0), 10)
    assert flat.startswith("2e-05, then stays there until step 10") and "no clipping" in flat
    short = plan.describe_rate(OptimConfig(schedule="linear", warmup_steps=100, min_lr=1e-6), 10)
    assert short.startswith("rises to 2e-05 over 9 steps, then falls in a straight line to 1e-06")


def test_a_source_is_said_with_its_columns_its_passes_and_its_flagged_rows(planned, tmp_path):
    rows = [
        {"en": "a", "ar": "b", "_hala": {"flags": flags}} for flags in [[], [], ["empty"], []] * 5
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = f'{{path="{path}", prompt_column="en", response_column="ar", drop_flagged=true'
    code, out, err = planned(f"data.train=[{entry}, weight=2.5}}]")
    assert (code, err) == (0, "")
    assert "rows.jsonl (en, ar): 15 documents, " in out
    assert "2.5 passes an epoch; beside them 25.0% of the rows are flagged and left out" in out


def test_flagged_rows_beyond_the_sample_are_reckoned(tmp_path, monkeypatch, tokenizer, planned):
    monkeypatch.setattr(survey, "SAMPLE_ROWS", 20)
    rows = [
        {"prompt": "a", "response": "b", "_hala": {"flags": ["x"] * (n % 2)}} for n in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = SourceConfig(str(tmp_path / "rows.parquet"), drop_flagged=True)
    found = survey.survey(source, ChatRenderer(tokenizer), planned.recipe().data)
    assert (found.rows, found.exact) == (pytest.approx(150, rel=0.05), False)


def write_source(source: SourceConfig) -> None:
    """A row where a recipe's source looks for it."""
    talk = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "A"}]
    row = {"_hala": {"flags": []}}
    values = {source.prompt_column: "say a", source.response_column: "A"}
    if source.messages_column != "messages":
        values = {source.messages_column: talk}
    for name, value in values.items():
        column, _, field = name.partition(".")
        row[column] = row.get(column, {}) | {field: value} if field else value
    path = Path(source.path)
    path = path if path.suffix else path / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | row) + "\n")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_planned(path, init_dir, tmp_path, monkeypatch, capsys):
    """With a small model and rows in the columns that it names; not compiled, which takes long."""
    monkeypatch.chdir(tmp_path)
    r = load_recipe(path, [])
    for source in (*r.data.train, *r.data.eval):
        write_source(source)
    nproc = 1 if "mini" in path.stem or path.parent.name == "examples" else 8
    overrides = [f"model.path={init_dir}", "train.compile=false"]
    code = run(path, overrides, False, nproc=nproc, dry_run=True)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and "fits: " in out
    longest = max(map(len, path.read_text().splitlines()))
    assert longest <= 100


def test_the_four_models_of_the_report_train_on_the_same_corpus():
    trains = [load_recipe(path, []).data for path in RECIPES if re.match("hala-[0-9]", path.stem)]
    assert len(trains) == 4
    assert all(data == trains[0] for data in trains)
