"""Whatever is wrong with the input is one clear line and exit code 2, before training begins."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from hala_trainer.__main__ import app, run
from hala_trainer.errors import ProcessError


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
        ("data.weights=[1.0, 2.0]", "unknown key data.weights; did you mean data.train[1].weight?"),
        ("data.prompt_column=en", "did you mean data.train[1].prompt_column?"),
        ("data.train=[]", "data.train is missing"),
        ('data.train=["a", 5]', "data.train[2] must be a path, or a table with one, not 5"),
        ("data.train=[{weight=1}]", "data.train[1].path is missing"),
        ('data.train=["a", {path="b", weight="x"}]', 'data.train[2].weight must be float, not "x"'),
        ('data.train={path="a", weight=0}', "data.train[1].weight must be positive"),
        ('data.train={path="a", weight=nan}', "data.train[1].weight must be a finite number"),
        (
            'data.eval={path="a", weight=2}',
            "data.eval[1].weight: evaluation takes each source once",
        ),
        (
            'data.train=["a", {path="b", prompt_colum="c"}]',
            "unknown key data.train[2].prompt_colum; did you mean data.train[2].prompt_column?",
        ),
        (
            'data.eval={path="a", prompt_template="hello"}',
            "data.eval[1].prompt_template must hold {prompt}",
        ),
        ('data.train={path="a", messages_column=""}', "data.train[1] has a column without a name"),
        (
            'data.train={path="a", prompt_column="a..b"}',
            "data.train[1] has a column without a name",
        ),
        ('data.train={path="a", drop_flagged=1}', "data.train[1].drop_flagged must be bool, not 1"),
        ("data.train=[{path=a}]", "not valid TOML"),
        ('data.train={path="/nowhere"}', "/nowhere: no such data file or folder"),
        ("data.seq_len=20", "chat.jsonl line 1: 2"),
        ("data.overlong=crop", "data.overlong must be one of refuse, drop"),
        ("train.global_batch=6", "train.global_batch = 6 is no multiple of train.micro_batch = 4"),
        ("train.global_batch=3", "on 1 process; 4 would be"),
        ("train.global_batch=9", "on 1 process; 8 or 12 would be"),
        ("train.micro_batch=0", "train.global_batch and train.micro_batch must be at least 1"),
        ("train.recompute=some", "train.recompute must be one of none, selective, full"),
        ("train.device=cuda", "train.device is cuda, but torch finds no GPU"),
        ("train.spike=0.5", "train.spike must be 0 (off) or above 1"),
        ("optim.lr=nan", "optim.lr must be a finite number"),
        ("optim.lr=-1", "optim.lr must be positive"),
        ("log.samples=2.5", "log.samples must be int"),
        ("train=5", "an override is section.key=value"),
        ("steps", "an override is section.key=value"),
    ],
)
def test_wrong_value(recipe_file, capsys, override, said):
    assert run(recipe_file, [override], debug=False) == 2
    assert said in one_line(capsys)


def test_all_rows_too_long_is_said_even_where_long_ones_are_dropped(recipe_file, capsys):
    assert run(recipe_file, ["data.seq_len=8", "data.overlong=drop"], debug=False) == 2
    assert "every row is longer than data.seq_len = 8" in one_line(capsys)


def test_samples_without_eval_data_are_refused(recipe_file, capsys):
    assert run(recipe_file, ["data.eval=[]", "log.samples=1"], debug=False) == 2
    assert "log.samples needs data.eval" in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{broken\n", "line 1: not valid JSON"),
        ("[1]\n", "line 1: a row must be a JSON object"),
        ('{"text": "x"}\n', "line 1: needs `messages`, or `prompt` and `response`"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "line 1: no assistant turn"),
        ('{"messages": [{"role": "assistant"}]}\n', "line 1: the content of message 1 must be"),
        ("", "no rows"),
    ],
)
def test_wrong_row(recipe_file, tmp_path, capsys, text, said):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(text)
    assert run(recipe_file, [f"data.train={rows}"], debug=False) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize(
    ("keys", "row", "said"),
    [
        ('prompt_column="q"', {"prompt": "a", "response": "b"}, "`q` must be text, not missing"),
        ('messages_column="m.n"', {"m": {"n": "a"}}, "`m.n` must be a list of messages, not text"),
        ('response_column="t.ar"', {"prompt": "a", "t": {"ar": 3}}, "`t.ar` must be text"),
        ("drop_flagged=true", {"prompt": "a", "response": "b"}, "line 1: `_hala.flags`, which"),
        ("drop_flagged=true", {"prompt": "a", "_hala": {"flags": []}}, "leaves none of 1 rows"),
    ],
)
def test_wrong_row_for_a_source(recipe_file, tmp_path, capsys, keys, row, said):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    for dry_run in (True, False):
        entry = f'data.train={{path="{rows}", {keys}}}'
        assert run(recipe_file, [entry], debug=False, dry_run=dry_run) == 2
        assert said in one_line(capsys)


def test_missing_and_malformed_recipe(tmp_path, capsys):
    assert run(tmp_path / "none.toml", [], debug=False) == 2
    assert "cannot read the recipe" in one_line(capsys)
    (tmp_path / "bad.toml").write_text("[model\n")
    assert run(tmp_path / "bad.toml", [], debug=False) == 2
    assert "not valid TOML" in one_line(capsys)


def edited(init_dir, tmp_path, **changes):
    """A copy of the model directory with changes to its config.json."""
    copy = tmp_path / "edited"
    shutil.copytree(init_dir, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 100}, "the model's vocabulary only 100"),
        ({"model_type": "gpt2"}, "gpt2 models are not supported; lfm2, gemma2"),
        ({"model_type": "nonsense"}, "unusable config.json"),
        ({"quantization_config": {"quant_method": "fp8"}}, "its weights are quantized"),
    ],
)
def test_a_model_that_cannot_be_trained(recipe_file, init_dir, tmp_path, capsys, changes, said):
    model = edited(init_dir, tmp_path, **changes)
    assert run(recipe_file, [f"model.path={model}"], debug=False) == 2
    assert said in one_line(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, init_dir):
    """A directory with weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(init_dir, folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def test_weights_that_do_not_fit_the_configuration(recipe_file, trained, tmp_path, capsys):
    weights = trained / "model.safetensors"

    def refusal(folder) -> str:
        overrides = [f"model.path={folder}", "model.init=pretrained"]
        assert run(recipe_file, overrides, debug=False) == 2
        return one_line(capsys)

    wider = edited(trained, tmp_path, intermediate_size=40)
    assert "has shape [48, 32], config.json asks for [40, 32]" in refusal(wider)
    shutil.rmtree(wider)
    deeper = edited(
        trained,
        tmp_path,
        num_hidden_layers=5,
        layer_types=["conv"] * 2 + ["full_attention", "conv", "conv"],
    )
    assert "its weights lack the tensor model.layers.4." in refusal(deeper)
    shutil.rmtree(deeper)
    cut = edited(trained, tmp_path)
    (cut / "model.safetensors").write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refusal(cut)
    (cut / "model.safetensors").unlink()
    assert str(cut) in refusal(cut)
    (cut / "tokenizer.json").write_text("{")
    assert "no usable tokenizer" in refusal(cut)


def test_another_recipe_in_the_same_directory_is_refused(recipe_file, chat_file, capsys):
    assert run(recipe_file, ["train.steps=1"], debug=False) == 0
    capsys.readouterr()
    assert run(recipe_file, ["train.steps=1", "optim.lr=1e-3"], debug=False) == 2
    assert "optim.lr = 0.003, now 0.001" in one_line(capsys)
    assert run(recipe_file, ["train.steps=2", "log.every=2"], debug=False) == 0
    assert run(recipe_file, [f'data.train={{path="{chat_file}", weight=2}}'], debug=False) == 2
    was, now = f'["{chat_file}"]', f'[{{path = "{chat_file}", weight = 2.0}}]'
    assert f"holds a run with data.train = {was}, now {now}; " in one_line(capsys)
    as_table = [f'data.train={{path="{chat_file}", weight=1}}', "train.steps=3"]
    assert run(recipe_file, [*as_table, "data.eval=[]"], debug=False) == 0


def test_data_that_changed_since_the_checkpoint_is_refused(
    recipe_file, chat_file, tmp_path, capsys
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(chat_file.read_text())
    assert run(recipe_file, [f"data.train={rows}", "train.steps=2"], debug=False) == 0
    capsys.readouterr()
    rows.write_text("".join(chat_file.read_text().splitlines(keepends=True)[1:]))
    assert run(recipe_file, [f"data.train={rows}", "train.steps=4"], debug=False) == 2
    assert "the documents of data.train have changed since" in one_line(capsys)


def test_help_has_an_example():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example: hala-train --nproc 8 trainer/recipes/" in result.output


@pytest.mark.parametrize(("rank", "lines"), [("0", 2), ("1", 1)])
def test_what_all_processes_know_is_said_once_and_what_one_knows_by_that_one(
    recipe_file, capsys, monkeypatch, rank, lines
):
    from hala_trainer import __main__ as entry

    def out_of_memory(recipe):
        raise ProcessError("out of GPU memory")

    monkeypatch.setenv("RANK", rank)
    assert run(recipe_file, ["train.steps=0"], debug=False) == 2
    monkeypatch.setattr(entry, "_train", out_of_memory)
    assert run(recipe_file, [], debug=False) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert said[-1].endswith("out of GPU memory")
