"""The sampler against plain statements of each filter, in float64, and against the softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_kernels.backend import Device, forced, standing_in
from hala_kernels.sample import SamplingTensors, sample
from hala_kernels.sample_noise import noise, noise_keys_reference
from hala_kernels.tuning import forcing
from tests.kernels.compare import assert_near

COLUMNS = {
    "temperature": (1.0, torch.float32),
    "top_k": (0, torch.int64),
    "top_p": (1.0, torch.float32),
    "min_p": (0.0, torch.float32),
    "seed": (0, torch.int64),
    "position": (None, torch.int64),
}


def tensors(rows: int, device: torch.device, history=None, penalty=1.0, **values):
    """A value for all rows, or one for each."""
    unknown = set(values) - set(COLUMNS)
    assert not unknown, unknown
    columns = {}
    for name, (default, dtype) in COLUMNS.items():
        value = values.get(name, default)
        value = torch.arange(rows) if value is None else torch.as_tensor(value, dtype=dtype)
        columns[name] = value.to(dtype).expand(rows).contiguous().to(device)
    if history is not None:
        columns["history"] = torch.as_tensor(history).expand(rows, -1).to(device)
        columns["penalty"] = torch.as_tensor(penalty, dtype=torch.float32).expand(rows).to(device)
    return SamplingTensors(**columns)


def exact_y(logits: torch.Tensor, params: SamplingTensors, logit_scale=1.0, softcap=None):
    """x and y in float64; scaling as float32 does it, since equal logits must stay equal."""
    x = (logits.float() * logit_scale).double()
    if softcap is not None:
        x = softcap * (x / softcap).tanh()
    y = x.clone()
    if params.history is not None:
        for row, ids in enumerate(params.history.tolist()):
            p = params.penalty[row].double()
            for i in set(ids):
                y[row, i] = x[row, i] / p if x[row, i] > 0 else x[row, i] * p
    return x, y


def exact_margin(y: torch.Tensor, params: SamplingTensors, row: int) -> torch.Tensor:
    """For each id, by how much of a filter's quantity it is inside (> 0) or outside (<= 0), in
    float64: near zero, rounding may decide. A filter that is off leaves infinity."""
    z = y[row] / params.temperature[row].double()
    margin = torch.full_like(z, torch.inf)
    k, p, min_p = params.top_k[row].item(), params.top_p[row].double(), params.min_p[row].double()
    larger = z.unsqueeze(1) < z.unsqueeze(0)  # [i, j]: j is larger than i
    kept = torch.ones_like(z, dtype=torch.bool)
    if 0 < k < len(z):
        kept = larger.sum(1) < k
        margin = torch.where(kept, margin, -torch.inf)
    share = (z - z.max()).exp() * kept
    if p < 1:
        above = (larger.double() @ share) / share.sum()
        below = torch.where(z == z.max(), torch.inf, p - above)
        margin = torch.minimum(margin, below)
    if min_p > 0:
        margin = torch.minimum(margin, (z - z.max()).exp() - min_p + 1e-300)
        margin = torch.where((z == z.max()) & (min_p <= 1), torch.inf, margin)
    return margin


def assert_drawn_from_the_kept(logits, params, tokens, **options) -> None:
    """Each token wins the race among the ids that float64 keeps, but for rounding."""
    _, y = exact_y(logits.cpu(), on_cpu(params), **options)
    params = on_cpu(params)
    for row, token in enumerate(tokens.tolist()):
        temperature = params.temperature[row].double()
        if temperature == 0:
            assert y[row, token] >= y[row].max() - 1e-5 * y[row].max().abs()
            continue
        margin = exact_margin(y, params, row)
        assert margin[token] > -1e-5, f"row {row}: {token} was filtered by {margin[token]}"
        keys = tuple(key[row] for key in noise_keys_reference(params.seed, params.position))
        z = y[row] / temperature * 1.4426950408889634
        score = z + noise(torch.arange(len(z)), keys).double()
        best = score[margin > 1e-5].max()
        slack = 1e-4 + 1e-6 * z[margin > 1e-5].abs().max()
        assert score[token] >= best - slack, f"row {row}: {token} lost to a kept id"


def on_cpu(params: SamplingTensors) -> SamplingTensors:
    return SamplingTensors(
        **{k: None if v is None else v.cpu() for k, v in params.__dict__.items()}
    )


def assert_logprobs(logits, params, tokens, logprobs, **options) -> None:
    x, _ = exact_y(logits.cpu(), on_cpu(params), **options)
    want = x.log_softmax(1).gather(1, tokens.cpu().unsqueeze(1)).squeeze(1)
    assert logprobs.dtype == torch.float32
    assert ((logprobs.cpu().double() - want).abs() <= 1e-5 + 1e-6 * x.abs().amax(1)).all()


def random_logits(rows: int, v: int, device, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, v, device=device) * spread


# Distributions, on many rows at once: with the kernel only on a GPU, where rows are cheap.

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.2, 1.9, -4.0, 0.0, 0.9])


@pytest.fixture
def many(device):
    with forced("auto"):
        yield 40_000


def frequencies(logits: torch.Tensor, draws: int, device, **values) -> torch.Tensor:
    logits = logits.to(device).expand(draws, -1)
    tokens, _ = sample(logits, tensors(draws, device, **values))
    return torch.bincount(tokens, minlength=logits.shape[1]).double().cpu()


def chi_square_excess(counts: torch.Tensor, p: torch.Tensor) -> float:
    """Standard deviations by which Pearson's statistic exceeds its mean."""
    expected = p * counts.sum()
    degrees = len(p) - 1
    return ((((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5).item()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vary", ["position", "seed"])
def test_frequencies_follow_the_softmax(temperature, vary, many, device):
    numbers = {"seed": 0, "position": 7, vary: torch.arange(many)}
    counts = frequencies(LOGITS, many, device, temperature=temperature, **numbers)
    assert chi_square_excess(counts, (LOGITS.double() / temperature).softmax(0)) < 4


def test_a_flat_distribution_has_no_favourites(many, device):
    counts = frequencies(torch.zeros(1000), many, device)
    assert chi_square_excess(counts, torch.full((1000,), 1e-3, dtype=torch.float64)) < 4
    assert abs(counts[:500].sum() - many / 2) < 4 * (many / 4) ** 0.5


def test_successive_draws_are_independent(many, device):
    logits = LOGITS.to(device).expand(many, -1)
    p = LOGITS.double().softmax(0)
    draws = [
        sample(logits, tensors(many, device, seed=seed, position=position))[0].cpu()
        for seed in (3, 4)
        for position in (torch.arange(many), torch.arange(many) + 1)
    ]
    pairs = (p.unsqueeze(1) * p).flatten()
    for first, second in ((0, 1), (0, 2), (1, 2), (0, 3)):
        counts = torch.bincount(draws[first] * 8 + draws[second], minlength=64).double()
        if (first, second) in ((0, 1), (1, 2)):  # the same numbers a step apart: shift one back
            counts = torch.bincount(draws[first][1:] * 8 + draws[second][1:], minlength=64).double()
        assert chi_square_excess(counts, pairs) < 5


def test_noise_is_uniform_and_uncorrelated():
    ids, rows = torch.arange(65536), []
    for seed, position in ((0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0), (-1, 5)):
        keys = noise_keys_reference(torch.tensor(seed), torch.tensor(position))
        rows.append((-(noise(ids, keys).double().neg().exp2())).exp())  # exp(-E) is uniform
    for u in rows:
        counts = torch.histc(u.float(), 256, 0, 1).double()
        assert chi_square_excess(counts, torch.full((256,), 1 / 256, dtype=torch.float64)) < 4
    stack = torch.stack([*rows, rows[0].roll(1), rows[0].roll(256)])
    correlation = torch.corrcoef(stack) - torch.eye(len(stack))
    assert correlation.abs().max() * 256 < 4.5


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 1), ("top_k", 3), ("top_p", 0.3), ("top_p", 0.8), ("min_p", 0.2), ("min_p", 0.6)],
)
def test_filtered_frequencies_follow_the_softmax_of_the_kept(name, value, many, device):
    counts = frequencies(LOGITS, many, device, **{name: value})
    margin = exact_margin(LOGITS.double()[None], tensors(1, "cpu", **{name: value}), 0)
    kept = margin > 0
    assert torch.equal(counts > 0, kept)
    if kept.sum() > 1:
        assert chi_square_excess(counts[kept], LOGITS.double()[kept].softmax(0)) < 4


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
