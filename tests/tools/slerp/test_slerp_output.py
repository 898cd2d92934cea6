"""What hala-slerp writes and says, on a terminal and without one, and what it does not import."""

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hala_tools.slerp import cli
from tests.tools.slerp.commands import (
    Pair,
    command,
    edited,
    left_over,
    merge_file,
    run_command,
    run_here,
)
from tests.tools.slerp.shapes import read_tensors, write_pair

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
