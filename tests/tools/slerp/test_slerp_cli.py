"""The command line: flags, warnings, reports, progress, and what it does without."""

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hala_tools.slerp import cli, job
from tests.tools.slerp.commands import (
    ERROR,
    WARNING,
    Pair,
    command,
    edit_json,
    edited,
    left_over,
    refusal,
    run_command,
    run_here,
)
from tests.tools.slerp.merge_texts import HEAD, MODELS, T
from tests.tools.slerp.shapes import read_tensors, write_pair


def merge_file(pair: Pair, text: str = MODELS + HEAD + T) -> Path:
    """Where A is the base, and B the tuned model."""
    path = pair.out.parent / "merge.yml"
    names = {"A": pair.base, "B": pair.tuned}
    path.write_text(re.sub(r"\b[AB]\b", lambda match: str(names[match[0]]), text))
    return path


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


# What is written and said.


def test_report_is_json_and_a_picture(pair, capfd):
    path = pair.out.with_name("merge.json")
    done = run_here(capfd, *pair.paths, "--report", path, "--t", "0,1")
    assert (done.code, done.err) == (0, "")
    report = json.loads(path.read_text())
    assert (report["base"], report["tuned"]) == (str(pair.base), str(pair.tuned))
    found = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert found.keys() == read_tensors(pair.base).keys()
    assert {t["t"] for n, t in found.items() if "layers.1." in n} == {1}
    assert "<svg" in path.with_suffix(".svg").read_text()
    assert left_over(pair.out) == ["out"]
    for kind in ("linear", "slerp"):
        counts = f"{kind}: {report[kind]['tensors']} of {report['all']['tensors']} tensors"
        assert counts in done.out


def test_summary_is_on_stdout(pair, capfd):
    done = run_here(capfd, *pair.paths)
    size, linear, slerp, lowest = done.out.splitlines()
    assert re.fullmatch(r"merged 27 tensors, 5\.78 K parameters: .* GB/s", size)
    assert linear.startswith("linear: ") and slerp.startswith("slerp: ")
    assert lowest.startswith("lowest cosine: ")


def test_shards_and_their_index_are_what_transformers_reads(pair, capfd):
    assert run_here(capfd, *pair.paths, "--shard-size", 4000, "--t", "0.3").code == 0
    files = sorted(path.name for path in pair.out.glob("*.safetensors"))
    assert files == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, 1 + len(files))
    ]
    assert len(files) > 2
    index = json.loads((pair.out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    tensors = read_tensors(pair.out)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for name in files:
        sizes = [t.nbytes for t in read_tensors(pair.out / name).values()]
        assert sum(sizes) <= 4000 or len(sizes) == 1
    model, info = AutoModelForCausalLM.from_pretrained(pair.out, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(pair.out).encode("ab")


def test_one_file_has_no_index(pair, capfd):
    assert run_here(capfd, *pair.paths).code == 0
    assert {path.name for path in pair.out.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_relative_paths_are_no_hub_ids_on_the_card(pair, capfd, monkeypatch):
    """The same words may be another's model on the hub."""
    (pair.base.parent / "models").mkdir()
    pair.base.rename(pair.base.parent / "models" / "base")
    monkeypatch.chdir(pair.base.parent)
    assert run_here(capfd, "models/base", "tuned", "out").code == 0
    card = (pair.out / "README.md").read_text()
    assert "huggingface.co" not in card
    assert "base_model" not in card.split("\n---\n")[0]


ODD = [
    "model.ü.w",
    'model."quoted".w',
    "model.it's.w",
    "model.a b.w",
    "模型.w",
    "model.\\.w",
    "%s{}",
]


def test_odd_names_of_tensors_are_kept(pair, capfd, tmp_path):
    for model in (pair.base, pair.tuned):
        with edited(model) as tensors:
            tensors |= dict.fromkeys(ODD, tensors["model.norm.weight"])
    done = run_here(capfd, *pair.paths, "--report", tmp_path / "report.json", "--t-filter", "ü=1")
    assert (done.code, done.err) == (0, "")
    assert set(ODD) < read_tensors(pair.out).keys()
    assert set(ODD) < {
        t["name"] for t in json.loads((tmp_path / "report.json").read_text())["tensors"]
    }


def test_paths_that_are_no_text(pair, capfd):
    """The system takes any bytes as names."""
    base = pair.base.rename(os.fsdecode(os.fsencode(pair.base) + b"\xff"))
    out = Path(os.fsdecode(os.fsencode(pair.out) + b"\xfe"))
    report = pair.out.with_name("report.json")
    for model in (base, pair.tuned):
        (model / "tokenizer.json").unlink()
    done = run_here(capfd, base, pair.tuned, out, "--report", report)
    assert done.code == 0, done
    assert out.is_dir()
    json.loads(report.read_text())


def test_control_characters_of_a_name_do_not_reach_the_terminal(pair, capfd):
    name = "model.\x1b[31mred\x07.weight"
    for model, value in ((pair.base, b"\0\0"), (pair.tuned, b"\xff\xff")):
        with edited(model) as tensors:
            tensors[name] = tensors["model.norm.weight"]._replace(shape=(1,), data=value)
    done = run_here(capfd, *pair.paths)
    assert done.code == 2
    assert "red" in done.err
    assert done.err.rstrip("\n").isprintable()


@pytest.mark.parametrize("kind", ["qwen2", "lfm2"])
@pytest.mark.parametrize("layers", [0, 1])
def test_models_of_one_layer_and_of_none(tmp_path, capfd, kind, layers):
    pair = Pair(*write_pair(tmp_path, kind, seed=1, layers=layers), tmp_path / "out")
    done = run_here(capfd, *pair.paths, "--t", "0,0.5,1", "--report", tmp_path / "report.json")
    assert (done.code, done.err) == (0, "")
    factors = {
        (t["layer"], t["t"]) for t in json.loads((tmp_path / "report.json").read_text())["tensors"]
    }
    assert factors == ({(None, 0), (0, 1)} if layers else {(None, 0)})


def test_models_without_tensors_are_no_models(pair, refused):
    for model in (pair.base, pair.tuned):
        with edited(model) as tensors:
            tensors.clear()
    assert str(pair.base) in refused(pair)


# Progress.


def test_a_short_run_is_silent_where_there_is_no_terminal(pair):
    done = run_command(*pair.paths)
    assert (done.code, done.err) == (0, "")


def test_a_long_run_says_how_far_it_is(pair, capfd, monkeypatch):
    monkeypatch.setattr(cli, "_LINE_EVERY", 0)
    done = run_here(capfd, *pair.paths)
    lines = done.err.splitlines()
    assert len(lines) == 27
    line = r"0\.00/0\.00 GB \(\d+%\), [\d,]+ MB/s"
    assert all(re.fullmatch(line, text) for text in lines)
    assert "(100%)" in lines[-1]


def test_a_terminal_has_a_bar_that_goes_away(pair):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*pair.paths),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith(b"merged 27 tensors")
    assert b"11.6/11.6 kB" in shown
    assert shown.endswith(b"\x1b[2K")  # the line is cleared


# Without torch.


NEITHER = textwrap.dedent("""
    import sys

    class Recorder:
        asked = []

        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "transformers", "hala_engine", "hala_trainer"):
                cls.asked.append(name)
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Recorder)
    from hala_tools.slerp.cli import run
    code = run()
    print("asked for:", *Recorder.asked)
    sys.exit(code)
""")


@pytest.mark.parametrize("way", ["plain", "report", "config"])
def test_neither_torch_nor_transformers_is_asked_for(tmp_path, way):
    pair = Pair(*write_pair(tmp_path, "qwen2", seed=1, layers=1, tuned_vocab=40), tmp_path / "out")
    vocabulary = ["--tokenizer-source", "tuned"]
    arguments = {
        "plain": [*pair.paths, *vocabulary],
        "report": [*pair.paths, *vocabulary, "--report", tmp_path / "r.json", "--shard-size", 4000],
        "config": ["--config", merge_file(pair), pair.out, *vocabulary],
    }[way]
    done = subprocess.run(
        [sys.executable, "-c", NEITHER, *map(str, arguments)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "asked for:"
    assert read_tensors(pair.out)["lm_head.weight"].shape[0] == 40
