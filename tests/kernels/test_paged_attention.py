"""Decode attention over pages against float64 softmax attention."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_kernels import backend, tuning
from hala_kernels.backend import Device
from hala_kernels.paged_attention import CONTEXT_BUCKET, paged_attention
from tests.kernels.attention_inputs import exact, scattered
from tests.kernels.compare import assert_near

SMALL = {"SPLIT": 64, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2}
"""Many splits and blocks from short contexts."""

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: None}


@contextmanager
def splitting(mode: str):
    """A program for each context ("whole") or for each split ("split")."""
    processors = {"whole": 1, "split": 10_000}[mode]
    with backend.standing_in(Device("interpreter", 0, processors)):
        yield


def attend(q, cached, contexts, scale, mode="whole", config=SMALL, **options):
    lens = torch.tensor(contexts, device=q.device, dtype=cached.page_table.dtype)
    with splitting(mode), tuning.forcing("paged_attention", config):
        return paged_attention(
            q, *cached.caches, cached.page_table, lens, scale, **cached.scales, **options
        )


def expected(q, cached, scale, window=None, softcap=None):
    return torch.stack(
        [
            exact(q[s], k[-window:] if window else k, v[-window:] if window else v, scale, softcap)
            for s, (k, v) in enumerate(zip(cached.k, cached.v, strict=True))
        ]
    )


def lows(contexts, window):
    return [max(0, n - window) if window else 0 for n in contexts]


# kv heads, group, head dim, page size, window, soft-cap, e4m3
CASES = [
    (2, 1, 64, 16, None, None, False),
    (2, 2, 16, 1, None, None, False),
    (1, 3, 32, 4, 1, None, False),
    (2, 4, 64, 16, 70, None, False),
    (1, 7, 16, 64, 16, 2.0, False),
    (2, 8, 16, 16, 1000, None, False),
    (1, 12, 128, 64, None, 2.0, False),
    (1, 17, 16, 16, 63, None, False),
    (1, 2, 256, 16, 65, 30.0, False),
    (2, 4, 64, 16, None, None, True),
    (2, 3, 32, 64, 33, 2.0, True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim", "page", "window", "softcap", "fp8"), CASES
)
@pytest.mark.parametrize("mode", ["whole", "split"])
def test_matches_float64(
    kv_heads, group, head_dim, page, window, softcap, fp8, dtype, mode, implementation, device
):
    if implementation == "reference" and mode == "split":
        pytest.skip("the reference has no splits")
    contexts = [1, 63, 64, 0, 65, 131]
    cached = scattered(
        contexts,
        page,
        kv_heads,
        head_dim,
        dtype,
        first_visible=lows(contexts, window),
        poison_rows=implementation == "triton" or (implementation == "native" and not fp8),
        fp8=fp8,
        device=device,
    )
    q = torch.randn(len(contexts), kv_heads * group, head_dim, device=device).to(dtype)
    got = attend(q, cached, contexts, 0.4, mode, window=window, softcap=softcap)
    assert got.dtype == dtype
    assert (got[3] == 0).all()
    assert_near(got, expected(q, cached, 0.4, window, softcap), TOLERANCE[dtype])


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    contexts=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    page=st.sampled_from([1, 2, 8, 16, 32, 128]),
    group=st.integers(1, 5),
    window=st.none() | st.integers(1, 160),
    softcap=st.sampled_from([None, 1.0]),
    mode=st.sampled_from(["whole", "split"]),
)
def test_any_layout_matches_float64(
    contexts, page, group, window, softcap, mode, device, triton_kernels
):
    cached = scattered(
        contexts,
        page,
        2,
        16,
        torch.float32,
        first_visible=lows(contexts, window),
        poison_rows=True,
        index_dtype=torch.int32,
        device=device,
    )
    q = torch.randn(len(contexts), 2 * group, 16, device=device)
    got = attend(q, cached, contexts, 0.3, mode, window=window, softcap=softcap)
    assert_near(got, expected(q, cached, 0.3, window, softcap), 2e-5)


@pytest.mark.parametrize("capability", [0, 90])
@pytest.mark.parametrize(("head_dim", "fp8"), [(64, False), (64, True), (256, False)])
def test_shipped_configurations_match_float64(capability, head_dim, fp8, device, triton_kernels):
    contexts = [255, 256, 257]
    cached = scattered(
        contexts, 16, 1, head_dim, torch.bfloat16, poison_rows=True, fp8=fp8, device=device
    )
    q = torch.randn(3, 4, head_dim, device=device).bfloat16()
    lens = torch.tensor(contexts, device=device)
    for processors in (1, 10_000):
        with backend.standing_in(Device("any", capability, processors)):
            got = paged_attention(q, *cached.caches, cached.page_table, lens, 0.2, **cached.scales)
        assert_near(got, expected(q, cached, 0.2))


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("window", [None, 100])
def test_whole_contexts_and_splits_give_the_same_bits(window, fp8, device, triton_kernels):
    contexts = [1, 64, 65, 260, 0]
    cached = scattered(contexts, 16, 2, 64, torch.bfloat16, fp8=fp8, device=device)
    q = torch.randn(len(contexts), 6, 64, device=device).bfloat16()
    whole, split = (
        attend(q, cached, contexts, 0.2, mode, window=window, softcap=9.0)
        for mode in ("whole", "split")
    )
    assert torch.equal(whole, split)


def test_partials_beyond_the_memory_bound_are_not_made(device, triton_kernels, monkeypatch):
    contexts = [300, 5]
    cached = scattered(contexts, 16, 1, 16, torch.float32, device=device)
    q = torch.randn(2, 2, 16, device=device)
    before = attend(q, cached, contexts, 0.2, "split")
    monkeypatch.setattr("hala_kernels.paged_attention.MOST_PARTIAL_BYTES", 0)
    launched = []

    def count(kernel, grid, *args, **options):
        launched.append(grid)
        backend._run(kernel, grid, *args, **options)

    with backend.launching_with(count):
        assert torch.equal(attend(q, cached, contexts, 0.2, "split"), before)
    assert launched == [(1, 2, 1)]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 90])
def test_rows_do_not_depend_on_their_neighbours(window, softcap, implementation, device):
    edge = CONTEXT_BUCKET
    contexts = [3, edge + 6, edge, 130]
    cached = scattered(contexts, 16, 2, 32, torch.bfloat16, device=device)
    q = torch.randn(len(contexts), 4, 32, device=device).bfloat16()
    options = {"window": window, "softcap": softcap}
    together = attend(q, cached, contexts, 0.2, "split", **options)
    caches = cached.caches
    for i, n in enumerate(contexts):
        table = cached.page_table[i : i + 1, : -(-n // 16)]
        lens = torch.tensor([n], device=device)
        for mode in ("whole", "split"):
            with splitting(mode), tuning.forcing("paged_attention", SMALL):
                alone = paged_attention(q[i : i + 1], *caches, table, lens, 0.2, **options)
            assert torch.equal(alone[0], together[i])


@pytest.mark.filterwarnings("ignore:overflow")  # 2^x is infinite on the way to a soft-cap
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_large_scores_stay_accurate(softcap, fp8, implementation, device):
    contexts = [100, 200]
    cached = scattered(contexts, 16, 2, 64, torch.bfloat16, magnitude=30.0, fp8=fp8, device=device)
    q = (torch.randn(2, 4, 64, device=device) * 50).bfloat16()
    q[0] *= 1e3
    got = attend(q, cached, contexts, 1.0, "split", softcap=softcap)
    assert_near(got, expected(q, cached, 1.0, softcap=softcap), 1.5e-2)


def test_a_view_of_a_fused_projection_is_read_in_place(implementation, device):
    contexts = [40, 9]
    cached = scattered(contexts, 8, 2, 16, torch.float32, device=device)
    projected = torch.randn(2, 8, 16, device=device)
    got = attend(projected[:, :4], cached, contexts, 0.3)
    assert_near(got, expected(projected[:, :4], cached, 0.3), 2e-5)


def test_no_sequences(implementation, device):
    cached = scattered([5], 8, 2, 16, torch.float32, device=device)
    cached.page_table = cached.page_table[:0]
    got = attend(torch.empty(0, 4, 16, device=device), cached, [], 0.3)
    assert got.shape == (0, 4, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 3, 16)}, "share"),
        ({"q": torch.zeros(2, 4, 16)}, "entries"),
        ({"q": torch.zeros(1, 4, 16).bfloat16()}, "dtype"),
        ({"k_scale": torch.ones(2)}, "k_scale"),
        (
            {
                "k_cache": torch.zeros(4, 8, 2, 16).to(torch.float8_e4m3fn),
                "v_cache": torch.zeros(4, 8, 2, 16).to(torch.float8_e4m3fn),
                "k_scale": torch.ones(3),
                "v_scale": torch.ones(2),
            },
            "k_scale has shape",
        ),
        ({"window": 0}, "positive"),
        ({"scale": -1.0}, "positive"),
        ({"page_table": torch.zeros(2, 3, dtype=torch.int64)}, "rows"),
        ({"v_cache": torch.zeros(4, 8, 2, 32)}, "two caches"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message, implementation):
    arguments = {
        "q": torch.zeros(1, 4, 16),
        "k_cache": torch.zeros(4, 8, 2, 16),
        "v_cache": torch.zeros(4, 8, 2, 16),
        "page_table": torch.zeros(1, 3, dtype=torch.int64),
        "context_lens": torch.tensor([3]),
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        paged_attention(**(arguments | change))


@pytest.mark.parametrize(
    ("head_dim", "page", "message"), [(24, 8, "head dim"), (16, 6, "page size")]
)
def test_what_only_the_reference_takes(head_dim, page, message, device, triton_kernels):
    cached = scattered([9], page, 1, head_dim, torch.float32, device=device)
    q = torch.randn(1, 2, head_dim, device=device)
    with pytest.raises(ValueError, match=message):
        attend(q, cached, [9], 0.3)
    with backend.forced("reference"):
        assert_near(attend(q, cached, [9], 0.3), expected(q, cached, 0.3), 2e-5)


def test_the_kernel_wants_both_caches_in_one_layout(device, triton_kernels):
    cache = torch.zeros(2, 8, 2, 16, device=device)
    other = torch.zeros(2, 2, 8, 16, device=device).transpose(1, 2)
    context = torch.tensor([3], device=device)
    with pytest.raises(ValueError, match="one layout"):
        paged_attention(
            torch.zeros(1, 4, 16, device=device),
            cache,
            other,
            torch.zeros(1, 1, dtype=torch.int64, device=device),
            context,
            1.0,
        )
