"""`deterministic`: a request's greedy tokens do not depend on what runs beside it."""

from __future__ import annotations

import random

import pytest
import torch
from all_logits import logits_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lfm2_checkpoints import random_prompts, write_checkpoint

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.layers.linear import can_pack, invariant_linear, pack, packed_linear

PARAMS = SamplingParams(max_new_tokens=16, ignore_eos=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A checkpoint with flat logits, where bfloat16 ties are frequent, and each prompt's tokens
    when it runs alone."""
    directory = tmp_path_factory.mktemp("lfm2")
    oracle = write_checkpoint(directory, num_hidden_layers=4, full_attn_idxs=[0, 2])
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.3)
    oracle.save_pretrained(directory)
    prompts = random_prompts(24, seed=9)
    engine = Engine(
        directory, config=EngineConfig(device="cpu", dtype="bfloat16", deterministic=True)
    )
    return directory, prompts, [next(engine.generate([p], PARAMS)).token_ids for p in prompts]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([1, 3, 8, 24]),
    page_size=st.sampled_from([4, 16]),
    pages=st.sampled_from([None, 40]),
)
def test_tokens_equal_those_of_a_request_alone(alone, seed, batch, page_size, pages):
    directory, prompts, expected = alone
    order = random.Random(seed).sample(range(len(prompts)), k=len(prompts))
    config = EngineConfig(
        device="cpu",
        dtype="bfloat16",
        deterministic=True,
        max_batch_size=batch,
        page_size=page_size,
    )
    with pytest.MonkeyPatch.context() as patch:
        if pages:
            patch.setattr("hala_engine.engine._plan_pages", lambda *_: pages)
        engine = Engine(directory, config=config)
    outputs = list(engine.generate([prompts[i] for i in order], PARAMS))
    assert [output.token_ids for output in outputs] == [expected[i] for i in order]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_bit_equal_alone_and_in_a_batch(tmp_path, dtype):
    """Widths at which GEMM libraries change their kernel with the number of rows."""
    write_checkpoint(
        tmp_path, hidden_size=256, intermediate_size=704, num_hidden_layers=3, full_attn_idxs=[1]
    )
    prompts = random_prompts(20, seed=2, longest=40)

    def run(batch: int) -> list[torch.Tensor]:
        config = EngineConfig(device="cpu", dtype=dtype, deterministic=True, max_batch_size=batch)
        return [logits for _, logits in logits_of(Engine(tmp_path, config=config), prompts, 4)]

    for alone, together in zip(run(1), run(20), strict=True):
        assert torch.equal(alone, together)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_invariant_linear_rows_do_not_depend_on_their_number(dtype):
    torch.manual_seed(0)
    weight = torch.randn(384, 704).to(dtype) * 0.05
    x = torch.randn(300, 704).to(dtype)
    ways = [(weight, torch.nn.functional.linear)]
    if can_pack(weight):
        ways.append((pack(weight), packed_linear))
    for held, product in ways:
        whole = invariant_linear(x, held, None, product)
        torch.testing.assert_close(
            whole, torch.nn.functional.linear(x, weight), atol=0.05, rtol=0.02
        )
        for start, count in ((0, 1), (5, 3), (64, 64), (17, 100), (299, 1)):
            part = invariant_linear(x[start : start + count], held, None, product)
            assert torch.equal(part, whole[start : start + count])
