"""`--verify`: its numbers against `transformers` on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import ARCHITECTURES, oracle_logits, random_prompts, write_checkpoint
from quantized_directories import command, left_over, recovered, run

from hala_engine.errors import InputError
from hala_engine.quantize.verify import LINES, TOP, compare, encode_lines

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "hala_engine" / "assets" / "hala-mini-en-ar"
LENGTHS = [2, 17, 40]


def log_probabilities(model, lines: list[list[int]]) -> torch.Tensor:
    """[places, vocab] float64: of what follows each token but each line's last."""
    logits = torch.cat([oracle_logits(model, ids)[:-1] for ids in lines])
    return torch.log_softmax(logits.double(), -1)


@pytest.mark.parametrize("architecture", ["lfm2", "gemma2"])
def test_numbers_are_those_of_transformers(tmp_path, architecture):
    before, after = tmp_path / "before", tmp_path / "after"
    oracle = write_checkpoint(before, architecture)
    run(before, after)
    lines = [(ids * 20)[:n] for ids, n in zip(random_prompts(3), LENGTHS, strict=True)]
    result = compare(before, after, lines)

    old = log_probabilities(oracle, lines)
    weights = {name: value.float() for name, value in recovered(after).items()}
    oracle.load_state_dict(weights, strict=False)
    new = log_probabilities(oracle, lines)
    actual = torch.cat([torch.tensor(ids[1:]) for ids in lines]).unsqueeze(1)
    top = old.topk(TOP).indices
    p, q = old.exp(), new.exp()
    likeliest = (p * (old - new)).gather(1, top).sum(1)
    rest_p, rest_q = 1 - p.gather(1, top).sum(1), 1 - q.gather(1, top).sum(1)
    divergence = (likeliest + rest_p * (rest_p / rest_q).log()).mean().item()

    assert (result.lines, result.tokens) == (3, sum(LENGTHS) - 3)
    assert divergence > 1e-3
    assert result.divergence == pytest.approx(divergence, rel=1e-2)
    same = (old.argmax(1) == new.argmax(1)).double().mean().item()
    assert result.same_top == pytest.approx(same)
    for found, logprobs in ((result.perplexity_before, old), (result.perplexity_after, new)):
        expected = (-logprobs.gather(1, actual).mean()).exp().item()
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_model_does_not_differ_from_itself(tmp_path):
    write_checkpoint(tmp_path)
    result = compare(tmp_path, tmp_path, random_prompts(4)[2:])
    assert result.same_top == 1
    assert result.divergence == pytest.approx(0, abs=1e-6)
    assert result.perplexity_before == result.perplexity_after


def test_lines_are_encoded_by_the_model(tmp_path):
    encoded = encode_lines(MINI, len(LINES))
    assert len(encoded) == len(LINES) and all(len(ids) > 5 for ids in encoded)
    for count in (0, len(LINES) + 1):
        with pytest.raises(InputError, match=f"--verify {count}"):
            encode_lines(MINI, count)


def test_a_tokenizer_that_cannot_read_english_is_found_before_work(tmp_path):
    write_checkpoint(tmp_path / "source")  # its tokens are other characters
    failed = command(tmp_path / "source", tmp_path / "target", "--verify", "1")
    assert failed.returncode == 2 and "fewer than two tokens" in failed.stderr
    assert left_over(tmp_path / "target") == []


def test_the_command_compares_the_shipped_model(tmp_path):
    report = tmp_path / "report.json"
    done = command(MINI, tmp_path / "target", "--verify", "2", "--report", report)
    assert done.returncode == 0, done.stderr
    assert "verify: 2 lines" in done.stdout and "KL divergence" in done.stdout
    found = json.loads(report.read_text())["verify"]
    assert found["same_top"] > 0.8 and 0 < found["divergence"] < 0.05


def test_every_architecture_can_be_compared(tmp_path):
    """Each runs again from what was written of it."""
    for architecture in ARCHITECTURES:
        before, after = tmp_path / architecture, tmp_path / f"{architecture}-fp8"
        write_checkpoint(before, architecture, hidden_size=128, intermediate_size=256)
        run(before, after, "fp8-block")
        result = compare(before, after, [random_prompts(5)[4][:12]])
        assert 0 < result.divergence < 1
