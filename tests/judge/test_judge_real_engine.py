"""Scores of the real engine, with a random LFM2, against those of `transformers`; crashes."""

import json
import subprocess
import sys
import time

import pytest
import torch
from judge_outputs import read_rows, result_bytes

from hala_engine.judge import EngineOptions, JudgeConfig, judge_job
from tests.tiny_lfm2 import SPECIAL, write_tiny_lfm2

ROWS, SHARD_ROWS = 900, 150


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    return write_tiny_lfm2(
        path, "Verdict: accept or reject the translation", vocab=340, context=2048
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "pairs.jsonl"
    lines = [
        {"en": f"Row {n} says hello{' and more' * (n % 9)}", "ar": f"الصف {n * 7}", "n": n}
        for n in range(ROWS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_job(pairs, model, output, engine=EngineOptions(dtype="float32"), **options):  # noqa: B008
    config = JudgeConfig(
        inputs=(str(pairs),),
        output=str(output),
        model=str(model),
        source_column="en",
        target_column="ar",
        engine=engine,
        **options,
    )
    judge_job(config)
    rows = read_rows(output, "accepted") + read_rows(output, "rejected")
    return {row["n"]: row for row in rows}


def expected_numbers(model, chat, prompts, verdicts):
    """[P, 2] log-probabilities of the verdicts' first tokens after each prompt."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = []
    for prompt in prompts:
        if chat:
            prompt = f"{SPECIAL[1]}{SPECIAL[3]}user\n{prompt}{SPECIAL[4]}\n{SPECIAL[3]}assistant\n"
        space = "" if chat else " "
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        answered = [
            tokenizer.encode(prompt + space + verdict, add_special_tokens=False)
            for verdict in verdicts
        ]
        assert all(whole[: len(ids)] == ids for whole in answered)
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0, -1]
        scores = torch.log_softmax(logits, -1)
        rows.append(scores[[whole[len(ids)] for whole in answered]])
    return torch.stack(rows)


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize(
    "options",
    [{}, {"instruction": "{target} is {source}: translation", "verdicts": ("reject", "accept")}],
    ids=["rubric", "own prompt"],
)
def test_scores_are_those_of_transformers(tmp_path, pairs, model, chat, options):
    rows = run_job(pairs, model, tmp_path / "out", chat_template=chat, limit=12, **options)
    config = JudgeConfig(
        inputs=("a",), output="b", model="m", source_column="en", target_column="ar", **options
    )
    prompts = [
        config.template.replace("{source}", rows[n]["en"]).replace("{target}", rows[n]["ar"])
        for n in range(12)
    ]
    expected = expected_numbers(model, chat, prompts, config.verdicts)
    infos = [rows[n]["_hala"] for n in range(12)]
    found = torch.tensor([[info["accept_logprob"], info["reject_logprob"]] for info in infos])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    scores = torch.tensor([info["score"] for info in infos])
    torch.testing.assert_close(scores, torch.softmax(expected, -1)[:, 0], atol=1e-4, rtol=0)
    assert len(set(scores.tolist())) == 12


def test_a_pair_in_a_batch_scores_as_by_itself(tmp_path, pairs, model):
    def numbers(name, **engine):
        options = EngineOptions(dtype="float32", **engine)
        rows = run_job(pairs, model, tmp_path / name, options, limit=40)
        infos = [rows[n]["_hala"] for n in range(40)]
        return torch.tensor([[i["accept_logprob"], i["reject_logprob"]] for i in infos])

    alone = numbers("alone", max_batch_size=1, prefix_caching=False)
    torch.testing.assert_close(numbers("batch"), alone, atol=1e-5, rtol=0)
    exact = numbers("exact", deterministic=True)
    assert torch.equal(numbers("exact alone", deterministic=True, max_batch_size=1), exact)


def command(pairs, model, output, *flags):
    fixed = ["--source-column", "en", "--target-column", "ar", "--dtype", "float32"]
    start = [sys.executable, "-m", "hala_engine.cli", "judge", str(pairs), "--model", str(model)]
    return [*start, "--output", str(output), "--shard-rows", str(SHARD_ROWS), *fixed, *flags]


def test_kill_twice_and_rerun_gives_the_bytes_of_an_unbroken_run(tmp_path, pairs, model):
    # Where about half of the pairs are accepted.
    rows = run_job(pairs, model, tmp_path / "first", limit=100)
    middle = sorted(row["_hala"]["score"] for row in rows.values())[50]
    flags = ["--threshold", f"{middle:.6f}"]

    def run(output):
        return subprocess.run(command(pairs, model, output, *flags), capture_output=True, text=True)

    unbroken = run(tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    out = tmp_path / "out"
    for shards, wait in ((1, 0.1), (3, 0.05)):
        process = subprocess.Popen(command(pairs, model, out, *flags), stderr=subprocess.PIPE)
        end = time.monotonic() + 200
        while len(list((out / ".progress").glob("part-*"))) < shards:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.communicate()
        assert not (out / "manifest.json").exists()
    assert run(out).returncode == 0
    assert result_bytes(out) == result_bytes(tmp_path / "unbroken")
    both = [[row["n"] for row in read_rows(out, name)] for name in ("accepted", "rejected")]
    assert all(len(ids) > ROWS // 5 and ids == sorted(ids) for ids in both)
    assert sorted(both[0] + both[1]) == list(range(ROWS))
