"""The engine through the Triton kernels, on the GPU where there is one, else interpreted, against
`transformers`."""

from __future__ import annotations

import pytest
import torch
from all_logits import logits_of
from lfm2_checkpoints import greedy, random_prompts, write_checkpoint

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_kernels import backend, triton_lang

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if triton_lang.AVAILABLE and DEVICE == "cpu":
    from tests.kernels.interpreter import correct

    correct()

pytestmark = pytest.mark.skipif(
    not triton_lang.AVAILABLE, reason="Triton has no build for this system"
)


@pytest.fixture(autouse=True)
def triton_kernels():
    with backend.forced("triton"):
        yield


def engine_of(directory) -> Engine:
    """Small chunks and pages, so that prompts are cut and pages crossed."""
    config = EngineConfig(
        device=DEVICE, dtype="float32", max_batch_size=3, max_batched_tokens=19, page_size=8
    )
    return Engine(directory, config=config)


@pytest.mark.parametrize("overrides", [{}, {"conv_bias": True, "num_key_value_heads": 1}])
def test_logits_match_transformers_at_every_position(overrides, tmp_path):
    oracle = write_checkpoint(tmp_path, num_hidden_layers=3, full_attn_idxs=[1], **overrides)
    results = logits_of(engine_of(tmp_path), random_prompts(4, longest=30), new_tokens=4)
    for tokens, logits in results:
        with torch.inference_mode():
            expected = oracle(torch.tensor([tokens]), use_cache=False).logits[0]
        torch.testing.assert_close(logits.cpu(), expected, atol=1e-4, rtol=0)


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
