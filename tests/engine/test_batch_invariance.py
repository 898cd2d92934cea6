"""`deterministic`: a request's greedy tokens do not depend on what runs beside it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from all_logits import logits_of
from checkpoints import random_prompts, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.engine import INVARIANT_CHUNK
from hala_engine.graph_runner import GraphRunner
from hala_engine.layers.linear import can_pack, invariant_linear, pack, packed_linear
from hala_engine.memory import plan_cache

PARAMS = SamplingParams(max_new_tokens=16, ignore_eos=True)


@pytest.fixture(scope="module", params=["lfm2", "gemma2"])
def alone(tmp_path_factory, request):
    """A checkpoint with flat logits, where bfloat16 ties are frequent, prompts, and the tokens of
    each when it runs alone. The last four share more than one chunk."""
    directory = tmp_path_factory.mktemp(request.param)
    layers = {"lfm2": {"num_hidden_layers": 4, "full_attn_idxs": [0, 2]}, "gemma2": {}}
    oracle = write_checkpoint(directory, request.param, **layers[request.param])
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.3)
    oracle.save_pretrained(directory)
    prompts = random_prompts(24, seed=9)
    template = [token for prompt in prompts for token in prompt][: INVARIANT_CHUNK + 30]
    prompts += [template + rest for rest in random_prompts(4, seed=3)]
    config = EngineConfig(device="cpu", dtype="bfloat16", deterministic=True, prefix_caching=False)
    engine = Engine(directory, config=config)
    return directory, prompts, [next(engine.generate([p], PARAMS)).token_ids for p in prompts]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([1, 3, 8, 28]),
    page_size=st.sampled_from([4, 16]),
    tokens=st.sampled_from([None, 800]),
    budget=st.sampled_from([None, 256, 300]),
    ahead=st.booleans(),
)
def test_tokens_equal_those_of_a_request_alone(
    alone, seed, batch, page_size, tokens, budget, ahead
):
    """In any order, however many run together, preempted for want of pages or not, in padded steps
    ahead of the host as on a GPU, or not."""
    directory, prompts, expected = alone
    chance = random.Random(seed)
    order = chance.sample(range(24), k=24)
    at = chance.randrange(24)
    order[at:at] = chance.sample(range(24, 28), k=4)
    config = EngineConfig(
        device="cpu",
        dtype="bfloat16",
        deterministic=True,
        max_batch_size=batch,
        max_batched_tokens=budget,
        page_size=page_size,
    )

    def plan_few_pages(*args, **options):
        plan = plan_cache(*args, **options)
        return replace(plan, num_pages=tokens // page_size) if tokens else plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hala_engine.engine.plan_cache", plan_few_pages)
        engine = Engine(directory, config=config)
    if ahead:
        engine.runner = GraphRunner(engine.model, engine.cache, engine.device, captures=False)
    outputs = list(engine.generate([prompts[i] for i in order], PARAMS))
    assert [output.token_ids for output in outputs] == [expected[i] for i in order]
    assert engine.stats.shared_tokens >= INVARIANT_CHUNK


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
