"""The sampler against plain statements of each filter, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_kernels.backend import Device, forced, standing_in
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.tuning import forcing
from tests.kernels.compare import assert_near
from tests.kernels.sample_oracle import (
    COLUMNS,
    assert_drawn_from_the_kept,
    assert_logprobs,
    random_logits,
    tensors,
)

# Tokens and log-probabilities of both implementations, against float64.

FILTERS = [
    {},
    {"temperature": 0.0, "top_k": 5, "top_p": 0.5},
    {"temperature": 0.7, "top_k": 5},
    {"top_k": 10_000},
    {"top_k": 40, "temperature": 2.0},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 0.0},
    {"top_p": 0.9999999, "temperature": 0.3},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7, "min_p": 0.02, "temperature": 1.3},
    {"top_p": 0.8, "min_p": 0.3},
    {"top_k": 30, "min_p": 0.05},
]


@pytest.mark.parametrize(
    ("v", "dtype"),
    [(1, torch.float32), (7, torch.bfloat16), (1000, torch.bfloat16), (5003, torch.float32)],
)
def test_every_filter_alone_and_combined(v, dtype, implementation, device):
    rows = len(FILTERS)
    columns = {
        name: torch.tensor([f.get(name, default) for f in FILTERS], dtype=kind)
        for name, (default, kind) in COLUMNS.items()
        if name != "position"
    }
    columns["seed"] = torch.arange(rows) * 1_000_003 - 5
    logits = random_logits(rows, v, device).to(dtype)
    before = logits.clone()
    params = tensors(rows, device, **columns)
    tokens, logprobs = sample(logits, params)
    assert tokens.dtype == torch.int64 and tokens.shape == (rows,)
    assert_drawn_from_the_kept(logits, params, tokens)
    assert_logprobs(logits, params, tokens, logprobs)
    assert torch.equal(logits, before)
    bare, none = sample(logits, params, with_logprobs=False)
    assert none is None and torch.equal(bare, tokens)


@pytest.mark.parametrize("v", [1, 7, 1000, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_parameters_the_first_of_the_largest(v, dtype, implementation, device):
    logits = (random_logits(5, v, device)).to(dtype)
    logits[1] = 0.5  # all equal
    logits[2, v // 2 :] = logits[2].max() + 1  # equal over several parts
    logits[3, : v - 1] = -torch.inf
    tokens, logprobs = sample(logits, None)
    best = logits.cpu().double()
    want = torch.tensor([int((row == row.max()).nonzero()[0]) for row in best])
    assert torch.equal(tokens.cpu(), want)
    assert_logprobs(logits, tensors(5, device), tokens, logprobs)
    assert torch.equal(sample(logits, None, with_logprobs=False)[0], tokens)


@pytest.mark.parametrize(
    "options", [{"logit_scale": 0.25}, {"softcap": 5.0}, {"logit_scale": 3.0, "softcap": 2.0}]
)
def test_scale_and_cap_come_first(options, implementation, device):
    logits = random_logits(6, 1000, device, 10.0)
    params = tensors(
        6,
        device,
        temperature=[0, 1, 1, 1, 0.5, 1],
        top_k=[0, 0, 9, 0, 0, 0],
        top_p=[1, 1, 1, 0.6, 1, 1.0],
        min_p=[0, 0, 0, 0, 0.2, 0],
    )
    tokens, logprobs = sample(logits, params, **options)
    assert_logprobs(logits, params, tokens, logprobs, **options)
    # A cap makes ties of large logits in float32, which float64 does not have.
    if "softcap" not in options:
        assert_drawn_from_the_kept(logits, params, tokens, **options)
    greedy, logprobs = sample(logits, None, **options)
    assert_logprobs(logits, params, greedy, logprobs, **options)
    assert greedy[0] == tokens[0]


def test_a_scale_does_not_change_what_is_greedy(implementation, device):
    logits = random_logits(6, 5000, device, 10.0).bfloat16()
    want, _ = sample(logits, None)
    for scale in (0.0625, 0.3, 7.0):
        for with_logprobs in (True, False):
            got, _ = sample(logits, None, logit_scale=scale, with_logprobs=with_logprobs)
            assert torch.equal(got, want)


def test_repetition_penalty_divides_positive_and_multiplies_negative(implementation, device):
    logits = torch.tensor([[3.0, 2.0, -1.0, -1.5], [-2.0, -1.9, -1.0, -1.5]], device=device)
    params = tensors(2, device, temperature=0.0, history=[[0, 0, 2]], penalty=2.0)
    tokens, logprobs = sample(logits, params)
    assert tokens.tolist() == [1, 3]  # 3 / 2 falls below 2; -1 * 2 below -1.5
    assert_logprobs(logits, params, tokens, logprobs)  # of the model, without the penalty


@pytest.mark.parametrize("v", [7, 1000, 3001])
def test_penalties_of_long_histories(v, implementation, device):
    rows = 5
    logits = random_logits(rows, v, device)
    history = torch.randint(0, v, (rows, 300))
    history[0] = v - 1
    params = tensors(
        rows,
        device,
        history=history,
        penalty=[1.0, 1.3, 5.0, 0.8, 1.3],
        temperature=[1.0, 0, 1, 0.7, 1],
        top_p=[1, 1, 1, 1, 0.7],
        top_k=[0, 0, 0, 12, 0],
    )
    tokens, logprobs = sample(logits, params)
    assert_drawn_from_the_kept(logits, params, tokens)
    assert_logprobs(logits, params, tokens, logprobs)


def test_all_equal_logits_are_kept_together(implementation, device):
    """Ties at the threshold stay: of a flat row each filter keeps everything."""
    rows, v = 6, 1500
    logits = torch.zeros(rows, v, device=device)
    for values in ({"top_k": 3}, {"top_p": 0.01}, {"min_p": 1.0}, {"top_k": 3, "top_p": 0.2}):
        tokens, logprobs = sample(logits, tensors(rows, device, **values))
        unfiltered, _ = sample(logits, tensors(rows, device))
        assert torch.equal(tokens, unfiltered)
        assert_near(logprobs, torch.full((rows,), -(torch.tensor(1500.0).log().item())), 1e-6)


@pytest.mark.parametrize(
    "values", [{}, {"top_k": 4}, {"top_p": 0.9}, {"min_p": 0.01}, {"top_k": 600}]
)
def test_extreme_logits_never_draw_an_impossible_token(values, implementation, device):
    logits = torch.full((12, 700), -1e30, device=device)
    logits[:, 17] = 1e4
    logits[:, 18] = float("-inf")
    logits[6:, 20:] = float("-inf")
    tokens, logprobs = sample(logits, tensors(12, device, **values))
    assert (tokens == 17).all() and (logprobs == 0).all()


def test_a_row_of_minus_infinity_gives_an_id(implementation, device):
    logits = torch.full((4, 300), float("-inf"), device=device)
    params = tensors(
        4, device, temperature=[0.0, 1, 1, 1], top_k=[0, 0, 3, 0], top_p=[1, 1, 1, 0.5]
    )
    tokens, _ = sample(logits, params)
    assert ((tokens >= 0) & (tokens < 300)).all()


def test_no_rows(implementation, device):
    for params in (None, tensors(0, device), tensors(0, device, history=torch.zeros(1, 3).long())):
        tokens, logprobs = sample(torch.zeros(0, 50, device=device), params)
        assert tokens.shape == (0,) and logprobs.shape == (0,)
        assert tokens.dtype == torch.int64 and logprobs.dtype == torch.float32


def test_an_empty_history_changes_nothing(implementation, device):
    logits = random_logits(3, 100, device)
    empty = tensors(3, device, history=torch.zeros(1, 0).long(), penalty=3.0)
    assert torch.equal(sample(logits, empty)[0], sample(logits, tensors(3, device))[0])


def test_rows_of_any_stride(implementation, device):
    wide = random_logits(6, 1003, device)
    view = wide[::2, 1:901]
    params = tensors(3, device, top_p=[1.0, 0.8, 0.8], top_k=[0, 0, 9])
    for p in (None, params):
        got, want = sample(view, p), sample(view.contiguous(), p)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("values", [FILTERS[i] for i in (0, 2, 5, 9, 11)])
def test_a_row_does_not_depend_on_its_neighbours(values, implementation, device):
    """Bit for bit, greedy and sampled rows mixed."""
    rows, v = 4, 900
    logits = random_logits(rows, v, device)
    params = tensors(
        rows,
        device,
        seed=torch.arange(rows),
        history=torch.randint(0, v, (rows, 9)),
        penalty=1.2,
        **values,
    )
    greedy_too = torch.tensor([1, 0, 1, 0], device=device)
    mixed = replace(params, temperature=params.temperature * greedy_too)
    together = sample(logits, mixed)
    for row in range(rows):
        columns = {name: column[row : row + 1] for name, column in mixed.__dict__.items()}
        alone = sample(logits[row : row + 1], SamplingTensors(**columns))
        assert torch.equal(alone[0], together[0][row : row + 1])
        assert torch.equal(alone[1], together[1][row : row + 1])
    plain = replace(mixed, penalty=None, history=None)
    greedy = sample(logits, None)
    for row in (1, 3):
        assert torch.equal(sample(logits, plain)[0][row], greedy[0][row])


# The kernel's own paths.

SMALL = {"ROWS": 2, "HELD": 8, "AGAINST": 2, "num_warps": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 20.0])
def test_thresholds_found_by_passes_over_the_row(dtype, spread, triton_kernels, device):
    """More candidates than the buffer holds: the same filters, by splitting intervals."""
    rows = len(FILTERS)
    columns = {
        name: torch.tensor([f.get(name, default) for f in FILTERS], dtype=kind)
        for name, (default, kind) in COLUMNS.items()
        if name != "position"
    }
    logits = (random_logits(rows, 700, device, spread) - 3).to(dtype)
    logits[:, 5] = -0.0
    logits[:, 9] = 0.0
    params = tensors(rows, device, **columns)
    with forcing("sample_finish", SMALL):
        tokens, logprobs = sample(logits, params)
    assert_drawn_from_the_kept(logits, params, tokens)
    assert_logprobs(logits, params, tokens, logprobs)


@pytest.mark.parametrize("held", [2, 512])
def test_exactly_k_are_kept(held, triton_kernels, device):
    """Of nearly equal logits the next one would be drawn in one row of k + 1."""
    rows = 24
    logits = random_logits(rows, 90, device, 1e-2)
    k = torch.arange(rows) % 5 + 2
    with forcing("sample_finish", {**SMALL, "HELD": held}):
        tokens, _ = sample(logits, tensors(rows, device, top_k=k))
    larger = (logits > logits.gather(1, tokens.unsqueeze(1))).sum(1).cpu()
    assert (larger < k).all() and (larger == k - 1).any()


def test_the_scan_s_configuration_changes_no_bit(triton_kernels, device):
    logits = random_logits(4, 3000, device)
    params = tensors(4, device, top_p=[1.0, 0.8, 0.9, 1], min_p=[0, 0, 0, 0.1])
    want = sample(logits, params)
    with forcing("sample_scan", {"ROWS": 4, "num_warps": 2}):
        got = sample(logits, params)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    v=st.integers(1, 600),
    spread=st.sampled_from([0.0, 0.1, 2.0, 12.0]),
    coarse=st.booleans(),
    temperature=st.floats(0.05, 4.0),
    top_k=st.integers(0, 700),
    top_p=st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    seed=st.integers(-(2**63), 2**63 - 1),
    held=st.sampled_from([8, 64, 512]),
)
def test_kernel_draws_what_the_reference_draws(
    v, spread, coarse, temperature, top_k, top_p, min_p, seed, held, triton_kernels, device
):
    rows = 2
    generator = torch.Generator().manual_seed(seed % 1000)
    logits = torch.randn(rows, v, generator=generator).to(device) * spread
    if coarse:
        logits = logits.round()  # many ties
    params = tensors(
        rows,
        device,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        position=torch.arange(rows) + seed % 7,
    )
    with forcing("sample_finish", {**SMALL, "HELD": held}):
        tokens, logprobs = sample(logits, params)
    assert_drawn_from_the_kept(logits, params, tokens)
    with forced("reference"):
        want, want_logprobs = sample(logits, params)
    assert_drawn_from_the_kept(logits, params, want)
    same = tokens == want
    assert torch.allclose(logprobs[same], want_logprobs[same], atol=2e-5)


def test_kernel_and_reference_differ_on_near_ties_only(triton_kernels, device):
    rows = 40
    logits = random_logits(rows, 400, device)
    params = tensors(rows, device, seed=9, top_p=torch.linspace(0.5, 1.2, rows).clamp(max=1))
    tokens, _ = sample(logits, params)
    with forced("reference"):
        want, _ = sample(logits, params)
    assert (tokens != want).sum() <= 1


def test_the_widest_part_covers_large_vocabularies(triton_kernels):
    """Over 262144 ids parts grow; nothing is launched, only the shapes."""
    from hala_kernels.sample_kernels import part_of

    assert [part_of(v) for v in (1, 65536, 262144, 262145, 2**20)] == [128, 128, 128, 256, 512]


def test_on_every_chip_the_kernels_are_the_same(triton_kernels, device):
    logits, params = random_logits(2, 300, device), tensors(2, device, top_p=0.7)
    want = sample(logits, params)
    with standing_in(Device("sm_90", 90, 132)):
        assert torch.equal(sample(logits, params)[0], want[0])


@pytest.mark.parametrize(
    ("logits", "change", "message"),
    [
        (torch.zeros(3), {}, "logits must be"),
        (torch.zeros(3, 0), {}, "V > 0"),
        (torch.zeros(4, 3).t(), {}, "contiguous"),
        (torch.zeros(2, 4), {}, "temperature must be"),
        (torch.zeros(3, 4), {"penalty": torch.ones(3)}, "go together"),
        (torch.zeros(3, 4), {"penalty": torch.ones(3), "history": torch.zeros(2, 5)}, "history"),
    ],
)
def test_wrong_arguments_are_refused(logits, change, message, implementation):
    with pytest.raises(ValueError, match=message):
        sample(logits, replace(tensors(3, "cpu"), **change))


def test_scale_and_cap_must_be_positive(implementation):
    for options in ({"logit_scale": 0.0}, {"softcap": -1.0}):
        with pytest.raises(ValueError, match="positive"):
            sample(torch.zeros(1, 4), None, **options)
