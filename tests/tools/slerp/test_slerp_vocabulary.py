"""Models whose vocabularies differ: rows matched by token, in the order of the one named."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.job import merge, prepare
from hala_tools.slerp.merge_flags import parse_factor
from hala_tools.slerp.request import Request
from tests.tools.slerp.oracle import slerp
from tests.tools.slerp.shapes import SPECIAL, read_tensors, write_pair

EMBEDDING = "model.embed_tokens.weight"
BASE_TOKENS, TUNED_TOKENS = 32, 41


def run(base: Path, tuned: Path, out: Path, source: str | None, **options):
    request = Request(
        str(base), str(tuned), parse_factor("0.3", []), tokenizer_source=source, **options
    )
    job = prepare(request, out)
    return job, merge(job, out)


def renumber(model: Path, seed: int) -> None:
    """Gives the tokens of a model other ids; special ones keep theirs."""
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    ordinary = [token for token in vocabulary if token not in SPECIAL]
    ids = np.random.default_rng(seed).permutation([vocabulary[token] for token in ordinary])
    vocabulary |= dict(zip(ordinary, ids.tolist(), strict=True))
    path.write_text(json.dumps(tokenizer))


def vocabulary(model: Path) -> dict[str, int]:
    return json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]


def aligned(own: Path, other: Path, table: str) -> np.ndarray:
    """The table of the model `other` in the order of `own`, whose rows it has where it lacks the
    token: written row by row from the two vocabularies."""
    rows = read_tensors(own)[table].copy()
    theirs, ids = read_tensors(other)[table], vocabulary(other)
    for token, i in vocabulary(own).items():
        if token in ids:
            rows[i] = theirs[ids[token]]
    return rows


@pytest.fixture(params=["lfm2", "qwen2"])
def pair(request, tmp_path):
    """Two models of 32 and 41 tokens, of which the tuned one numbers its own way."""
    base, tuned = write_pair(tmp_path, request.param, seed=2, tuned_vocab=TUNED_TOKENS)
    renumber(tuned, 5)
    return base, tuned


def test_vocabularies_that_differ_are_refused_without_a_source(pair, tmp_path):
    with pytest.raises(InputError, match=f"{EMBEDDING}.*32 rows.*41.*--tokenizer-source"):
        run(*pair, tmp_path / "out", None)


@pytest.mark.parametrize(("source", "tokens"), [("base", 32), ("tuned", 41)])
def test_rows_are_matched_by_token(pair, tmp_path, source, tokens):
    base, tuned = pair
    out = tmp_path / "out"
    run(base, tuned, out, source)
    own, other = (base, tuned) if source == "base" else (tuned, base)
    found = read_tensors(out)
    tables = [name for name in found if name in (EMBEDDING, "lm_head.weight")]
    for name in tables:
        sides = read_tensors(own)[name], aligned(own, other, name)
        wanted = slerp(*(sides if source == "base" else sides[::-1]), 0.3)
        assert found[name].shape[0] == tokens
        assert wanted.ulps(found[name], [found[name].dtype]).max() <= 0.51, name
    assert vocabulary(out) == vocabulary(own)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == tokens


def test_token_of_the_named_model_alone_is_merged_with_itself(pair, tmp_path):
    base, tuned = pair
    _, report = run(base, tuned, tmp_path / "out", "tuned")
    before, found = read_tensors(tuned)[EMBEDDING], read_tensors(tmp_path / "out")[EMBEDDING]
    shared = vocabulary(base)
    alone = [i for token, i in vocabulary(tuned).items() if token not in shared]
    assert len(alone) == TUNED_TOKENS - BASE_TOKENS
    (weights,) = (tensor.weights for tensor in report.tensors if tensor.name == EMBEDDING)
    wanted = (sum(weights) * before[alone].astype(np.float64)).astype(before.dtype)
    assert np.array_equal(found[alone], wanted)


def test_result_loads_with_the_named_models_tokenizer(pair, tmp_path):
    run(*pair, tmp_path / "out", "tuned")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == TUNED_TOKENS


def test_same_size_and_another_numbering_is_matched_when_asked_and_told_when_not(tmp_path):
    base, tuned = write_pair(tmp_path, "lfm2", seed=2)
    renumber(tuned, 5)
    job, _ = run(base, tuned, tmp_path / "rows", None)
    assert any("stand for different tokens" in warning for warning in job.warnings)
    plain = slerp(read_tensors(base)[EMBEDDING], read_tensors(tuned)[EMBEDDING], 0.3)
    found = read_tensors(tmp_path / "rows")[EMBEDDING]
    assert plain.ulps(found, [found.dtype]).max() <= 0.51

    job, _ = run(base, tuned, tmp_path / "tokens", "base")
    assert not any("stand for different tokens" in warning for warning in job.warnings)
    wanted = slerp(read_tensors(base)[EMBEDDING], aligned(base, tuned, EMBEDDING), 0.3)
    found = read_tensors(tmp_path / "tokens")[EMBEDDING]
    assert wanted.ulps(found, [found.dtype]).max() <= 0.51


@pytest.mark.parametrize(("parity", "rows"), [(False, 32), (True, 27)])
def test_padding_rows_stay_the_named_models_and_go_with_parity(tmp_path, parity, rows):
    base, tuned = write_pair(tmp_path, "lfm2", seed=2)
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    model = tokenizer["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < 27}
    model["merges"] = [m for m in model["merges"] if "".join(m) in model["vocab"]]
    path.write_text(json.dumps(tokenizer))
    run(base, tuned, tmp_path / "out", "base", parity=parity)
    before, found = read_tensors(base)[EMBEDDING], read_tensors(tmp_path / "out")[EMBEDDING]
    assert found.shape[0] == rows
    sides = before[:rows], aligned(base, tuned, EMBEDDING)[:rows]
    wanted = slerp(*sides, 0.3)
    assert wanted.ulps(found, [found.dtype]).max() <= 0.51
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows


def test_same_vocabulary_needs_no_matching(tmp_path):
    base, tuned = write_pair(tmp_path, "lfm2", seed=2)
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    results = []
    for source in (None, "base", "tuned"):
        out = tmp_path / f"{source}.out"
        run(base, tuned, out, source)
        results.append((out / "model.safetensors").read_bytes())
        assert (out / "chat_template.jinja").exists() == (source == "tuned")
    assert len(set(results)) == 1


def test_tokenizer_that_is_wanted_and_missing_is_named(pair, tmp_path):
    base, tuned = pair
    (base / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"base has no tokenizer\.json"):
        run(base, tuned, tmp_path / "out", "tuned")
