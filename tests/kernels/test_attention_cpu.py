"""What only the C attention promises: every build, and bits of the own context alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from hala_kernels import backend, kv_pages, native
from hala_kernels.paged_attention import paged_attention
from hala_kernels.prefill_attention import prefill_attention
from tests.kernels.attention_inputs import Cached, exact, scattered
from tests.kernels.compare import assert_near

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: None}
BUILDS = [("_native_avx512", True), ("_native_avx512", False), ("_native_avx2", False)]
"""A library, and whether its tile instructions are used."""


@pytest.fixture(autouse=True)
def c_kernels() -> Iterator[None]:
    if native.library() is None:
        pytest.skip("no C kernels were built, or none for this processor")
    with backend.forced("auto"):
        yield


@pytest.fixture(params=BUILDS, ids=["tiles", "avx512", "avx2"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with each build that the processor can run."""
    name, tiles = request.param
    needed = dict(native._BUILDS)[name]
    if not needed <= native._processor_flags() or (tiles and not kv_pages.HAS_TILES):
        pytest.skip("the processor lacks the instructions")
    function = ctypes.CDLL(str(native._path(name))).hala_attention
    function.argtypes, function.restype = kv_pages._attention.argtypes, None
    monkeypatch.setattr(kv_pages, "_attention", function)
    monkeypatch.setattr(kv_pages, "HAS_TILES", tiles)


def prefill(q, cached: Cached, chunks, contexts, **options) -> torch.Tensor:
    bounds = torch.tensor([0, *chunks]).cumsum(0)
    lens = torch.tensor(contexts)
    table = cached.page_table[: len(contexts)]
    longest = max(chunks, default=0)
    return prefill_attention(
        q, *cached.caches, table, bounds, lens, 0.3, max_seqlen=longest, **options
    )


def decode(q, cached: Cached, contexts, **options) -> torch.Tensor:
    lens = torch.tensor(contexts, dtype=cached.page_table.dtype)
    return paged_attention(q, *cached.caches, cached.page_table, lens, 0.3, **options)


def seen_by(cached: Cached, s: int, position: int, window: int | None):
    rows = slice(max(0, position + 1 - window) if window else 0, position + 1)
    return cached.k[s][rows], cached.v[s][rows]


OPTIONS = [{}, {"window": 33}, {"window": 64, "softcap": 2.0}, {"softcap": 0.5}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "window", "both", "softcap"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kv_heads", "group", "dim", "page"),
    [(2, 1, 16, 16), (3, 2, 64, 16), (1, 5, 80, 5), (2, 8, 128, 64), (1, 2, 256, 1)],
)
def test_matches_float64(kv_heads, group, dim, page, dtype, options, build):
    chunks, contexts = [150, 0, 1, 31, 2], [150, 3, 64, 160, 67]
    window = options.get("window")
    prefixes = [n - c for n, c in zip(contexts, chunks, strict=True)]
    lows = [max(0, n - window + 1) if window else 0 for n in prefixes]
    cached = scattered(contexts, page, kv_heads, dim, dtype, first_visible=lows, poison_rows=True)
    heads = kv_heads * group
    q = torch.randn(sum(chunks), heads, dim).to(dtype)
    got = prefill(q, cached, chunks, contexts, **options)
    places = [(s, prefixes[s] + i) for s, chunk in enumerate(chunks) for i in range(chunk)]
    softcap = options.get("softcap")
    want = [
        exact(row, *seen_by(cached, *place, window), 0.3, softcap)
        for row, place in zip(q, places, strict=True)
    ]
    assert_near(got, torch.stack(want), TOLERANCE[dtype])

    lasts = torch.randn(len(contexts), heads, dim).to(dtype)
    got = decode(lasts, cached, contexts, **options)
    want = [
        exact(row, *seen_by(cached, s, contexts[s] - 1, window), 0.3, softcap)
        for s, row in enumerate(lasts)
    ]
    assert_near(got, torch.stack(want), TOLERANCE[dtype])


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "window", "both", "softcap"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("group", "dim"), [(1, 64), (2, 64), (3, 80), (20, 16)])
def test_bits_depend_on_the_own_context_alone(group, dim, dtype, options, build):
    """A prompt in one chunk, in several, one token at a time as decode, and beside others."""
    length = 150
    cached = scattered([length, 20, 77], 16, 2, dim, dtype)
    q = torch.randn(length, 2 * group, dim).to(dtype)
    whole = prefill(q, cached, [length], [length], **options)
    for cuts in ([0, 1, 150], [0, 63, 65, 150], [0, 17, 64, 128, 149, 150]):
        parts = [prefill(q[a:b], cached, [b - a], [b], **options) for a, b in pairwise(cuts)]
        assert torch.equal(torch.cat(parts), whole), cuts
    others = torch.randn(30, 2 * group, dim).to(dtype)
    beside = prefill(torch.cat((q[100:], others)), cached, [50, 20, 10], [150, 20, 77], **options)
    assert torch.equal(beside[:50], whole[100:])
    for position in (0, 1, 63, 64, 65, 149):
        lasts = torch.stack((q[position], others[0], others[1]))
        together = decode(lasts, cached, [position + 1, 0, 70], **options)
        assert torch.equal(together[0], whole[position]), position


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_threads(dtype, build):
    contexts = [1, 300, 64, 129, 0, 77]
    cached = scattered(contexts, 16, 4, 64, dtype)
    lasts, chunk = torch.randn(6, 8, 64).to(dtype), torch.randn(300, 8, 64).to(dtype)
    cached_chunk = scattered([300], 16, 4, 64, dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(decode(lasts, cached, contexts))
            results.append(prefill(chunk, cached_chunk, [300], [300]))
    finally:
        torch.set_num_threads(before)
    for decoded, prefilled in zip(results[2::2], results[3::2], strict=True):
        assert torch.equal(decoded, results[0]) and torch.equal(prefilled, results[1])


def test_tables_with_other_strides_and_widths(build):
    contexts = [40, 9, 30]
    cached = scattered(contexts, 8, 2, 32, torch.bfloat16)
    q = torch.randn(3, 4, 32).bfloat16()
    want = decode(q, cached, contexts)
    table = cached.page_table
    wider = torch.full((3, table.shape[1] + 5), 2**40)
    wider[:, : table.shape[1]] = table
    every_second = wider.repeat_interleave(2, 0)[::2]
    for form in (table.int(), wider, table.t().contiguous().t(), every_second):
        cached.page_table = form
        assert torch.equal(decode(q, cached, contexts), want)


def test_caches_of_views(build):
    """K and V of a token side by side, and heads apart from each other in q."""
    contexts = [70, 5]
    cached = scattered(contexts, 16, 2, 32, torch.bfloat16)
    q = torch.randn(2, 4, 32).bfloat16()
    want = decode(q, cached, contexts)
    both = torch.stack(cached.caches, 2)
    cached.k_cache, cached.v_cache = both[:, :, 0], both[:, :, 1]
    apart = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(decode(apart, cached, contexts), want)
