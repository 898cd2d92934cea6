"""Attention of packed prompt chunks against float64 softmax attention."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hala_kernels import backend, tuning
from hala_kernels.backend import Device
from hala_kernels.prefill_attention import prefill_attention
from tests.kernels.attention_inputs import exact, scattered
from tests.kernels.compare import assert_near

SMALL = {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2}
"""Many blocks from short chunks."""

HOPPER = Device("sm_90", 90, 132)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: None}

needs_descriptors = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0),
    reason="this GPU has no tensor descriptors",
)


def attend(q, cached, chunks, contexts, scale, config=SMALL, **options):
    index = {"device": q.device, "dtype": cached.page_table.dtype}
    bounds = torch.tensor([0, *chunks], **index).cumsum(0, dtype=index["dtype"])
    with tuning.forcing("prefill_attention", config) if config else nullcontext():
        return prefill_attention(
            q,
            *cached.caches,
            cached.page_table,
            bounds,
            torch.tensor(contexts, **index),
            scale,
            max_seqlen=max(chunks, default=0),
            **cached.scales,
            **options,
        )


def expected(q, cached, chunks, scale, window=None, softcap=None):
    rows = []
    for k, v, chunk in zip(cached.k, cached.v, chunks, strict=True):
        for end in range(len(k) - chunk + 1, len(k) + 1):
            seen = slice(max(0, end - window) if window else 0, end)
            rows.append(exact(q[len(rows)], k[seen], v[seen], scale, softcap))
    return torch.stack(rows)


def lows(chunks, contexts, window):
    if window is None:
        return [0] * len(chunks)
    return [max(0, n - c - window + 1) for n, c in zip(contexts, chunks, strict=True)]


CHUNKS, CONTEXTS = [1, 7, 0, 6, 33, 1, 15, 16], [1, 7, 5, 20, 33, 33, 16, 48]

# kv heads, group, head dim, page size, window, soft-cap, e4m3
CASES = [
    (2, 1, 16, 16, None, None, False),
    (2, 2, 16, 1, 1, None, False),
    (1, 3, 32, 4, 9, None, False),
    (2, 4, 64, 16, None, 2.0, False),
    (1, 7, 16, 64, 16, 2.0, False),
    (1, 8, 16, 2, 1000, None, False),
    (1, 2, 256, 16, 17, 30.0, False),
    (1, 2, 128, 16, None, None, False),
    (2, 4, 64, 16, None, None, True),
    (2, 3, 32, 64, 20, 2.0, True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim", "page", "window", "softcap", "fp8"), CASES
)
def test_matches_float64(
    kv_heads, group, head_dim, page, window, softcap, fp8, dtype, implementation, device
):
    cached = scattered(
        CONTEXTS,
        page,
        kv_heads,
        head_dim,
        dtype,
        first_visible=lows(CHUNKS, CONTEXTS, window),
        poison_rows=implementation == "triton" or (implementation == "native" and not fp8),
        fp8=fp8,
        device=device,
    )
    q = torch.randn(sum(CHUNKS), kv_heads * group, head_dim, device=device).to(dtype)
    got = attend(q, cached, CHUNKS, CONTEXTS, 0.3, window=window, softcap=softcap)
    assert got.dtype == dtype
    assert_near(got, expected(q, cached, CHUNKS, 0.3, window, softcap), TOLERANCE[dtype])


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sequences=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=3),
    page=st.sampled_from([1, 8, 16, 64]),
    group=st.integers(1, 5),
    window=st.none() | st.integers(1, 90),
    softcap=st.sampled_from([None, 1.0]),
)
def test_any_layout_matches_float64(
    sequences, page, group, window, softcap, device, triton_kernels
):
    chunks = [1, *(chunk for chunk, _ in sequences)]
    contexts = [1, *(chunk + prefix for chunk, prefix in sequences)]
    cached = scattered(
        contexts,
        page,
        1,
        16,
        torch.float32,
        first_visible=lows(chunks, contexts, window),
        poison_rows=True,
        index_dtype=torch.int32,
        device=device,
    )
    q = torch.randn(sum(chunks), group, 16, device=device)
    got = attend(q, cached, chunks, contexts, 0.3, window=window, softcap=softcap)
    assert_near(got, expected(q, cached, chunks, 0.3, window, softcap), 2e-5)


@needs_descriptors
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("window", [None, 30])
def test_descriptors_give_the_same_bits_as_pointers(window, fp8, device, triton_kernels):
    chunks, contexts = [40, 3, 20], [60, 3, 100]
    cached = scattered(
        contexts,
        32,
        2,
        64,
        torch.bfloat16,
        first_visible=lows(chunks, contexts, window),
        poison_rows=True,
        fp8=fp8,
        device=device,
    )
    q = torch.randn(sum(chunks), 4, 64, device=device).bfloat16()
    pointers = attend(q, cached, chunks, contexts, 0.2, window=window)
    with backend.standing_in(HOPPER):
        descriptors = attend(q, cached, chunks, contexts, 0.2, window=window)
    assert torch.equal(pointers, descriptors)
    assert_near(descriptors, expected(q, cached, chunks, 0.2, window))


@needs_descriptors
@pytest.mark.parametrize("chip", [Device("any", 0, 4), HOPPER])
@pytest.mark.parametrize(("head_dim", "fp8"), [(64, False), (128, True), (256, False)])
def test_shipped_configurations_match_float64(chip, head_dim, fp8, device, triton_kernels):
    chunks, contexts = [70, 3], [150, 130]
    cached = scattered(
        contexts, 64, 1, head_dim, torch.bfloat16, poison_rows=True, fp8=fp8, device=device
    )
    q = torch.randn(sum(chunks), 2, head_dim, device=device).bfloat16()
    with backend.standing_in(chip):
        got = attend(q, cached, chunks, contexts, 0.2, config=None, window=100, softcap=20.0)
    assert_near(got, expected(q, cached, chunks, 0.2, 100, 20.0))


@needs_descriptors
@pytest.mark.parametrize("chip", [backend.INTERPRETER, HOPPER])
@pytest.mark.parametrize(
    ("window", "softcap", "fp8"), [(None, None, False), (21, None, False), (40, 5.0, True)]
)
def test_bits_do_not_depend_on_how_a_prompt_was_chunked(
    window, softcap, fp8, chip, device, triton_kernels
):
    length = 50
    cached = scattered([length], 16, 1, 32, torch.bfloat16, fp8=fp8, device=device)
    q = torch.randn(length, 3, 32, device=device).bfloat16()
    options = {"window": window, "softcap": softcap}
    with backend.standing_in(chip):
        whole = attend(q, cached, [length], [length], 0.3, **options)
        for first in (1, 16, 43):
            parts = [
                attend(q[:first], cached, [first], [first], 0.3, **options),
                attend(q[first:], cached, [length - first], [length], 0.3, **options),
            ]
            assert torch.equal(torch.cat(parts), whole), first


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 20])
def test_sequences_do_not_depend_on_their_neighbours(window, softcap, implementation, device):
    chunks, contexts = [5, 30, 1], [25, 30, 60]
    cached = scattered(contexts, 16, 2, 32, torch.bfloat16, device=device)
    q = torch.randn(sum(chunks), 4, 32, device=device).bfloat16()
    options = {"window": window, "softcap": softcap}
    together = attend(q, cached, chunks, contexts, 0.3, **options).split(chunks)
    table = cached.page_table
    for s, rows in enumerate(q.split(chunks)):
        cached.page_table = table[s : s + 1]
        alone = attend(rows, cached, [chunks[s]], [contexts[s]], 0.3, **options)
        assert torch.equal(alone, together[s])


@pytest.mark.filterwarnings("ignore:overflow")  # 2^x is infinite on the way to a soft-cap
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_large_scores_stay_accurate(softcap, fp8, implementation, device):
    chunks, contexts = [20, 10], [20, 50]
    cached = scattered(contexts, 16, 2, 64, torch.bfloat16, magnitude=30.0, fp8=fp8, device=device)
    q = (torch.randn(30, 4, 64, device=device) * 50).bfloat16()
    q[0] *= 1e3
    got = attend(q, cached, chunks, contexts, 1.0, softcap=softcap)
    assert_near(got, expected(q, cached, chunks, 1.0, softcap=softcap), 1.5e-2)


def test_a_view_of_a_fused_projection_is_read_in_place(implementation, device):
    chunks, contexts = [9, 4], [9, 40]
    cached = scattered(contexts, 8, 2, 16, torch.float32, device=device)
    q = torch.randn(13, 8, 16, device=device)[:, :4]
    got = attend(q, cached, chunks, contexts, 0.3)
    assert_near(got, expected(q, cached, chunks, 0.3), 2e-5)


@pytest.mark.parametrize("chunks", [[], [0, 0]])
def test_no_tokens(chunks, implementation, device):
    contexts = [5] * len(chunks)
    cached = scattered([5, 5], 8, 2, 16, torch.float32, device=device)
    cached.page_table = cached.page_table[: len(chunks)]
    got = attend(torch.empty(0, 4, 16, device=device), cached, chunks, contexts, 0.3)
    assert got.shape == (0, 4, 16)


def test_arguments_that_do_not_fit_are_refused(implementation):
    cached = scattered([9], 8, 1, 16, torch.float32)
    q = torch.zeros(9, 2, 16)
    with pytest.raises(ValueError, match="bounds"):
        attend(q, cached, [4, 5], [9], 0.3)
    with pytest.raises(ValueError, match="positive"):
        attend(q, cached, [9], [9], 0.3, softcap=0.0)


@pytest.mark.parametrize(
    ("head_dim", "page", "message"), [(24, 8, "head dim"), (16, 5, "page size")]
)
def test_what_only_the_reference_takes(head_dim, page, message, device, triton_kernels):
    cached = scattered([9], page, 1, head_dim, torch.float32, device=device)
    q = torch.randn(4, 2, head_dim, device=device)
    with pytest.raises(ValueError, match=message):
        attend(q, cached, [4], [9], 0.3)
    with backend.forced("reference"):
        got = attend(q, cached, [4], [9], 0.3)
    assert_near(got, expected(q, cached, [4], 0.3), 2e-5)
