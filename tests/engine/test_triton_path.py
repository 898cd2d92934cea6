"""The engine through the Triton kernels, on the GPU where there is one, else interpreted, against
`transformers`. The kernels' head dims are powers of two from 16."""

from __future__ import annotations

import pytest
import torch
from all_logits import logits_of
from checkpoints import greedy, oracle_logits, random_prompts, write_checkpoint
from configurations import FULL, ROPES, SLIDING
from fp8_products import write_fp8_checkpoint
from rounding import assert_rounded_alike, round_cache

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.device import multiplies_fp8
from hala_engine.graph_runner import GraphRunner
from hala_kernels import backend, triton_lang

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if triton_lang.AVAILABLE and DEVICE == "cpu":
    from tests.kernels.interpreter import correct

    correct()

pytestmark = pytest.mark.skipif(
    not triton_lang.AVAILABLE, reason="Triton has no build for this system"
)

WINDOWS = {"num_hidden_layers": 3, "layer_types": [SLIDING, FULL, SLIDING], "sliding_window": 11}

CASES = {
    "lfm2": ("lfm2", {"num_hidden_layers": 3, "full_attn_idxs": [1]}),
    "lfm2-conv_bias": (
        "lfm2",
        {
            "num_hidden_layers": 2,
            "conv_bias": True,
            "full_attn_idxs": [1],
            "num_key_value_heads": 1,
        },
    ),
    "cohere2": ("cohere2", WINDOWS),
    "cohere2-biases": (
        "cohere2",
        WINDOWS | {"attention_bias": True, "tie_word_embeddings": False, "sliding_window": 3},
    ),
    "gemma2": ("gemma2", WINDOWS),
    "gemma2-no_caps": (
        "gemma2",
        WINDOWS | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "qwen2": ("qwen2", WINDOWS | {"use_sliding_window": True}),
    "llama": (
        "llama",
        {"num_hidden_layers": 2, "rope_parameters": ROPES["llama3"], "mlp_bias": True},
    ),
}

# Little work for the interpreter; 144 ends inside a block of 128.
FP8_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 144,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "sliding_window": 5,
}

FP8_CASES = {
    "lfm2": ("token", {"num_hidden_layers": 2, "layer_types": ["conv", FULL]}),
    "cohere2": ("token", {"num_hidden_layers": 1, "layer_types": [SLIDING]}),
    "gemma2": ("group", {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}),
    "llama": ("tensor", {"num_hidden_layers": 1, "attention_bias": True}),
}


@pytest.fixture(autouse=True)
def triton_kernels():
    with backend.forced("triton"):
        yield


def engine_of(directory, **settings) -> Engine:
    """Small chunks and pages, so that prompts are cut and pages crossed."""
    config = EngineConfig(
        device=DEVICE,
        dtype="float32",
        max_batch_size=3,
        max_batched_tokens=19,
        page_size=8,
        **settings,
    )
    return Engine(directory, config=config)


@pytest.mark.parametrize("name", CASES)
def test_logits_match_transformers_at_every_position(name, tmp_path):
    architecture, overrides = CASES[name]
    oracle = write_checkpoint(tmp_path, architecture, **overrides)
    results = logits_of(engine_of(tmp_path), random_prompts(5, longest=30), new_tokens=4)
    for tokens, logits in results:
        torch.testing.assert_close(logits.cpu(), oracle_logits(oracle, tokens), atol=1e-4, rtol=0)


@pytest.mark.skipif(
    DEVICE == "cuda" and not multiplies_fp8(torch.device("cuda")), reason="FP8 needs sm_89"
)
@pytest.mark.parametrize("architecture", FP8_CASES)
def test_fp8_products_and_an_fp8_cache(architecture, tmp_path, monkeypatch):
    inputs, overrides = FP8_CASES[architecture]
    oracle = write_fp8_checkpoint(tmp_path, architecture, inputs, **FP8_SIZES, **overrides)
    round_cache(monkeypatch, oracle)
    monkeypatch.setattr("hala_engine.engine.multiplies_fp8", lambda device: True)
    prompts = [prompt[:n] for n, prompt in zip((6, 9, 11), random_prompts(9)[6:], strict=True)]
    results = logits_of(engine_of(tmp_path, kv_cache_dtype="fp8"), prompts, new_tokens=2)
    assert_rounded_alike(
        [logits.cpu() for _, logits in results],
        [oracle_logits(oracle, tokens) for tokens, _ in results],
    )


def test_greedy_and_sampled_requests_share_a_batch(tmp_path):
    oracle = write_checkpoint(tmp_path, num_hidden_layers=2, full_attn_idxs=[1])
    prompts = random_prompts(4, longest=20)
    plain = SamplingParams(max_new_tokens=4, ignore_eos=True)
    drawn = SamplingParams(
        max_new_tokens=4,
        ignore_eos=True,
        temperature=0.8,
        top_k=20,
        top_p=0.9,
        repetition_penalty=1.2,
        seed=5,
    )
    engine = engine_of(tmp_path)
    mixed = [plain, drawn, plain, drawn]
    outputs = list(engine.generate(prompts, mixed))
    for prompt, params, output in zip(prompts, mixed, outputs, strict=True):
        if params is plain:
            assert output.token_ids == greedy(oracle, prompt, 4)
        else:
            (alone,) = engine.generate([prompt], params)
            assert output.token_ids == alone.token_ids


@pytest.mark.parametrize("architecture", ["cohere2", "gemma2"])
def test_greedy_tokens_with_a_shared_prefix(architecture, tmp_path):
    _, overrides = CASES[architecture]
    oracle = write_checkpoint(tmp_path, architecture, **overrides)
    head = random_prompts(5, seed=2, longest=60)[-1][:11]
    prompts = [head + prompt for prompt in random_prompts(4, longest=20)]
    engine = engine_of(tmp_path)
    outputs = engine.generate(prompts, SamplingParams(max_new_tokens=5, ignore_eos=True))
    assert [output.token_ids for output in outputs] == [greedy(oracle, p, 5) for p in prompts]
    assert engine.stats.shared_tokens >= 2 * len(head)


@pytest.mark.parametrize("architecture", ["lfm2", "gemma2"])
def test_padded_steps_ahead_of_the_host(architecture, tmp_path, monkeypatch):
    """On a GPU replayed as graphs: each bucket is used more than once."""
    if DEVICE == "cpu":  # the interpreter takes long for padding
        monkeypatch.setattr("hala_engine.graph_runner.PROMPT_TOKENS", (8, 24))
    _, overrides = CASES[architecture]
    oracle = write_checkpoint(tmp_path, architecture, **overrides)
    prompts = random_prompts(5, longest=20)
    engine = engine_of(tmp_path)
    engine.runner = GraphRunner(
        engine.model, engine.cache, engine.device, captures=DEVICE == "cuda"
    )
    outputs = engine.generate(prompts, SamplingParams(max_new_tokens=4, ignore_eos=True))
    assert [output.token_ids for output in outputs] == [greedy(oracle, p, 4) for p in prompts]
    drawn = SamplingParams(max_new_tokens=3, ignore_eos=True, temperature=0.8, top_k=9, seed=5)
    together = [output.token_ids for output in engine.generate(prompts, drawn)]
    alone = [next(engine.generate([prompt], drawn)).token_ids for prompt in prompts[:1]]
    assert together[:1] == alone
    if DEVICE == "cuda":
        assert {bool(bucket.prompts) for bucket in engine.runner._graphs} == {True, False}
