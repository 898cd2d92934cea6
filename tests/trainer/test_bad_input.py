"""Whatever is wrong with the input is one clear line and exit code 2, before training begins."""

import json

import pytest
from typer.testing import CliRunner

from hala_trainer.__main__ import app, run


def one_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hala-train")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.learning_rat=1", "unknown key optim.learning_rat; did you mean optim."),
        ("optim.warmup=1", "did you mean optim.warmup_steps?"),
        ("optimiser.lr=1", "unknown section optimiser; did you mean optim?"),
        ("train.steps=many", "train.steps must be int"),
        ("train.compile=1", "train.compile must be bool"),
        ("train.steps=0", "give either train.steps or train.epochs"),
        ("train.epochs=2", "give either train.steps or train.epochs"),
        ("optim.schedule=cosin", "optim.schedule must be one of cosine, linear, constant"),
        ("model.path=/nowhere/at/all", "/nowhere/at/all"),
        ("data.train=/nowhere/rows.jsonl", "/nowhere/rows.jsonl: no such data file"),
        ("data.seq_len=4", "every document is longer than data.seq_len = 4"),
        ("steps", "an override is section.key=value"),
    ],
)
def test_wrong_value(recipe_file, capsys, override, said):
    assert run(recipe_file, [override], debug=False) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{broken\n", "line 1: not valid JSON"),
        ("[1]\n", "line 1: a row must be a JSON object"),
        ('{"text": "x"}\n', "line 1: needs `messages`, or `prompt` and `response`"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "line 1: no assistant turn"),
        ('{"messages": [{"role": "assistant"}]}\n', "line 1: every message needs a role and"),
        ("", "no rows"),
    ],
)
def test_wrong_row(recipe_file, tmp_path, capsys, text, said):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(text)
    assert run(recipe_file, [f"data.train={rows}"], debug=False) == 2
    assert said in one_line(capsys)


def test_missing_and_malformed_recipe(tmp_path, capsys):
    assert run(tmp_path / "none.toml", [], debug=False) == 2
    assert "cannot read the recipe" in one_line(capsys)
    (tmp_path / "bad.toml").write_text("[model\n")
    assert run(tmp_path / "bad.toml", [], debug=False) == 2
    assert "not valid TOML" in one_line(capsys)


def test_a_tokenizer_larger_than_the_model_is_refused(recipe_file, init_dir, tmp_path, capsys):
    import shutil

    small = tmp_path / "small"
    shutil.copytree(init_dir, small)
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    assert run(recipe_file, [f"model.path={small}"], debug=False) == 2
    assert "the model's vocabulary only 100" in one_line(capsys)


def test_another_recipe_in_the_same_directory_is_refused(recipe_file, capsys):
    assert run(recipe_file, ["train.steps=1"], debug=False) == 0
    capsys.readouterr()
    assert run(recipe_file, ["train.steps=1", "optim.lr=1e-3"], debug=False) == 2
    assert "optim.lr = 0.003, now 0.001" in one_line(capsys)
    assert run(recipe_file, ["train.steps=2", "log.every=2"], debug=False) == 0


def test_help_has_an_example():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example: hala-train trainer/recipes/" in result.output
