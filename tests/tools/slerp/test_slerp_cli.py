"""The command line: flags, warnings, reports, progress, and what it does without."""

import json
from importlib.metadata import version

import pytest

from hala_tools.slerp import cli, job
from tests.tools.slerp.commands import (
    ERROR,
    WARNING,
    Pair,
    edit_json,
    edited,
    left_over,
    merge_file,
    refusal,
    run_command,
    run_here,
)
from tests.tools.slerp.merge_texts import HEAD, MODELS
from tests.tools.slerp.shapes import read_tensors

# Arguments.


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_says_what_is_taken_and_what_comes_of_it(flag):
    done = run_command(flag)
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.split())
    assert "BASE TUNED OUT" in words
    assert "0 done; 1 failed; 2 bad input; 130, 143 stopped by a signal" in words
    assert cli.EXAMPLE in words
    flags = "--t --t-filter --config --dtype --tokenizer-source --parity --shard-size --report"
    assert all(flag in words for flag in flags.split())


def test_version_is_the_packages():
    done = run_command("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"hala-slerp {version('hala-engine')}\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "Missing argument 'BASE TUNED OUT'"),
        (["a"], "1 of the three arguments BASE TUNED OUT are given: a"),
        (["a", "b"], "2 of the three arguments BASE TUNED OUT are given: a b"),
        (["a", "b", "c", "d"], "three arguments are taken, BASE TUNED OUT, not a b c d"),
        (["--config", "m.yml", "a", "b", "c"], "with --config only OUT is given, not a b c"),
        (["--config", "m.yml"], "Missing argument 'BASE TUNED OUT'"),
        (["--config", "none.yml", "out"], "none.yml: cannot read the merge file (No such file"),
        (["a", "b", "c", "--tt", "1"], "No such option: --tt"),
        (["a", "b", "c", "--t"], "Option '--t' requires an argument"),
        (["a", "b", "c", "--dtype", "int8"], "Invalid value for '--dtype'"),
        (["a", "b", "c", "--tokenizer-source", "union"], "Invalid value for '--tokenizer-source'"),
        (["a", "b", "c", "--parity", "exact"], "Invalid value for '--parity'"),
        (["a", "b", "c", "--shard-size", "0"], "Invalid value for '--shard-size'"),
        (["a", "b", "c", "--shard-size", "5GB"], "Invalid value for '--shard-size'"),
    ],
)
def test_wrong_usage(tmp_path, capfd, monkeypatch, arguments, why):
    monkeypatch.chdir(tmp_path)
    message = refusal(run_here(capfd, *arguments), tmp_path / "out")
    assert message.startswith(why)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--t", "0.5"], ["--t", ""], ["--t-filter", "mlp=1"]])
def test_a_merge_file_and_factors_exclude_each_other(pair, capfd, flags):
    done = run_here(capfd, "--config", merge_file(pair), pair.out, *flags)
    assert refusal(done, pair.out).startswith("--t and --t-filter go without --config")


def test_a_merge_file_gives_what_flags_give(pair, capfd):
    """Of a merge file, dtype and tokenizer can be overruled."""
    merge = merge_file(pair, f"{MODELS}{HEAD}parameters: {{t: 0.25}}\ndtype: float32\n")
    assert run_here(capfd, "--config", merge, pair.out).code == 0
    other = Pair(pair.base, pair.tuned, pair.out.with_name("other"))
    flags = ["--t", "0.25", "--dtype", "float32"]
    assert run_here(capfd, *other.paths, *flags).code == 0
    weights = [(p.out / "model.safetensors").read_bytes() for p in (pair, other)]
    assert weights[0] == weights[1]
    third = Pair(pair.base, pair.tuned, pair.out.with_name("third"))
    assert run_here(capfd, "--config", merge, third.out, "--dtype", "bfloat16").code == 0
    assert {str(tensor.dtype) for tensor in read_tensors(third.out).values()} == {"bfloat16"}


# Errors.


def test_debug_shows_the_traceback(pair, capfd):
    for flags, lines in (([], 1), (["--debug"], 4)):
        done = run_here(capfd, pair.base, "nowhere", pair.out, *flags)
        assert done.code == 2
        assert len(done.err.splitlines()) >= lines
        assert ("Traceback" in done.err) == bool(flags)
        assert done.err.splitlines()[-1].startswith(f"{ERROR}no model directory at nowhere")


def test_a_fault_of_ours_is_one_line_too(pair, capfd, monkeypatch):
    def fail(*_):
        raise RuntimeError("of\nours")

    monkeypatch.setattr(job, "copy_other_files", fail)
    done = run_here(capfd, *pair.paths)
    assert (done.code, done.out, left_over(pair.out)) == (1, "", [])
    why = "internal error: RuntimeError: of ours (--debug shows the traceback)"
    assert done.err == f"hala-slerp: {why}\n"


# Warnings.


def warnings(capfd, pair: Pair, *flags: object) -> list[str]:
    done = run_here(capfd, *pair.paths, *flags)
    assert done.code == 0, done
    assert done.others == []
    return [line.removeprefix(WARNING) for line in done.warnings]


def test_nothing_is_warned_of_without_cause(pair, capfd):
    assert warnings(capfd, pair, "--t-filter", "self_attn=0,1", "--t-filter", "mlp=1") == []


def test_filter_that_matches_nothing_is_told_the_parts_there_are(pair, capfd):
    (warning,) = warnings(capfd, pair, "--t-filter", "self_atn=0,1")
    parts = "input_layernorm, mlp, post_attention_layernorm, self_attn"
    assert warning == (
        f"the filter self_atn matches no tensor; the parts of a layer are called {parts}"
    )


def test_filter_that_matches_nothing_in_a_model_without_layers(pair, capfd):
    for model in (pair.base, pair.tuned):
        with edited(model) as tensors:
            for name in [name for name in tensors if "layers" in name]:
                del tensors[name]
    (warning,) = warnings(capfd, pair, "--t-filter", "mlp=1")
    assert warning.startswith("the filter mlp matches no tensor")
    assert not warning.endswith(" ")


def test_filter_whose_tensors_earlier_ones_decide(pair, capfd):
    flags = ["--t-filter", "self_attn=0", "--t-filter", "q_proj=1"]
    (warning,) = warnings(capfd, pair, *flags)
    assert warning == "the filter q_proj decides nothing: earlier filters match its tensors"


def test_configurations_that_differ_in_meaning(pair, capfd):
    edit_json(pair.tuned / "config.json", rope_theta=5e5, use_cache=False)
    (warning,) = warnings(capfd, pair)
    values = "rope_theta is 10000.0 in the base and 500000.0 in the tuned model"
    assert warning == f"config.json: {values}; the base's is kept"
    assert json.loads((pair.out / "config.json").read_text())["rope_theta"] == 1e4


def test_a_warning_is_one_line_whatever_the_settings_hold(pair, capfd):
    edit_json(pair.base / "config.json", prompt="Translate:\n{text}")
    edit_json(pair.tuned / "config.json", prompt="Translate\n\n{text}")
    (warning,) = warnings(capfd, pair)
    assert warning.startswith("config.json: prompt is ")


def test_tokenizers_that_differ(pair, capfd):
    text = (pair.tuned / "tokenizer.json").read_text()
    (pair.tuned / "tokenizer.json").write_text(text.replace('"<bos>"', '"<start>"'))
    (pair.tuned / "chat_template.jinja").write_text("{{ messages }}")
    tokens, files = warnings(capfd, pair)
    assert tokens.startswith("1 ids stand for different tokens in the two tokenizers")
    assert "--tokenizer-source base or tuned matches rows by token" in tokens
    assert files.startswith("chat_template.jinja, tokenizer.json differ; the base's are taken")
    other = Pair(pair.base, pair.tuned, pair.out.with_name("other"))
    assert warnings(capfd, other, "--tokenizer-source", "tuned") == []
    assert (other.out / "chat_template.jinja").is_file()


def test_model_without_a_tokenizer(pair, capfd):
    for model in (pair.base, pair.tuned):
        (model / "tokenizer.json").unlink()
    (warning,) = warnings(capfd, pair)
    assert warning == f"{pair.base} has no tokenizer; the result will have none"
