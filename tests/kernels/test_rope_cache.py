"""Head norm, rotary embedding and the cache write, against float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels import native, rope_cache
from hala_kernels.backend import forced
from hala_kernels.quantize import FP8
from hala_kernels.rope_cache import rope_and_cache
from tests.kernels.compare import assert_near

EPS = 1e-5
ROPES = ("half-split", "interleaved", None)


def exact(x, weight, angles, rope):
    """`x` [T, H, D] with norm and rotation, in float64."""
    x = x.double()
    if weight is not None:
        x = x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
    if rope is None:
        return x
    pairs = x.unflatten(-1, (2, -1) if rope == "half-split" else (-1, 2))
    axis = -2 if rope == "half-split" else -1
    z = torch.complex(*pairs.unbind(axis)) * torch.exp(1j * angles.double())[:, None]
    return torch.stack((z.real, z.imag), axis).flatten(-2)


class Problem:
    """Random q, k, v as views of one projection with spare columns, angles, caches and slots; the
    slots of some tokens negative."""

    PAGES, PAGE_SIZE = 7, 5

    def __init__(self, tokens, heads, kv_heads, dim, dtype, device, *, norm, rope, fp8=False):
        self.shape = (tokens, heads, kv_heads, dim)
        width = (heads + 2 * kv_heads) * dim
        self.fused = (torch.randn(tokens, width + 24, device=device) * 3).to(dtype)
        by_head = self.fused[:, 8 : 8 + width].unflatten(1, (-1, dim))
        self.q, self.k, self.v = by_head.split((heads, kv_heads, kv_heads), dim=1)
        self.rope = rope
        self.angles = torch.randn(tokens, dim // 2, device=device) * 10
        weights = [(torch.rand(dim, device=device) + 0.5).to(dtype) for _ in "qk"]
        self.weights = weights if norm else (None, None)
        cells = self.PAGES * self.PAGE_SIZE
        self.slots = torch.randperm(cells, device=device)[:tokens]
        self.slots[1::5] = -1
        pool = (1 + self.PAGES, self.PAGE_SIZE, kv_heads, dim)  # page 0 lies before the cache
        dtype = FP8 if fp8 else dtype
        self.pools = [torch.full(pool, 9.0, device=device).to(dtype) for _ in "kv"]
        self.caches = [pool[1:] for pool in self.pools]
        scales = [torch.rand(kv_heads, device=device) + 0.02 for _ in "kv"]
        self.scales = scales if fp8 else (None, None)

    def run(self, tokens=slice(None)):
        cos, sin = self.angles.cos()[tokens], self.angles.sin()[tokens]
        return rope_and_cache(
            self.q[tokens],
            self.k[tokens],
            self.v[tokens],
            *((cos, sin) if self.rope else (None, None)),
            *self.caches,
            self.slots[tokens],
            *self.weights,
            EPS,
            interleaved=self.rope == "interleaved",
            k_scale=self.scales[0],
            v_scale=self.scales[1],
        )

    def rows(self):
        """What was written: K and V [written tokens, Hkv, D], and which tokens were written."""
        written = self.slots >= 0
        return [c.flatten(0, 1)[self.slots[written]] for c in self.caches], written

    def check(self, tolerance=None):
        before = self.fused.clone()
        got = self.run()
        assert torch.equal(self.fused, before)
        tokens, heads, _, dim = self.shape
        assert got.shape == (tokens, heads, dim) and got.dtype == self.q.dtype
        assert got.is_contiguous()
        assert_near(got, exact(self.q, self.weights[0], self.angles, self.rope), tolerance)
        (k, v), written = self.rows()
        want_k = exact(self.k, self.weights[1], self.angles, self.rope)[written]
        want_v = self.v[written]
        if self.scales[0] is None:
            assert_near(k, want_k, tolerance)
            assert torch.equal(v, want_v)
        else:
            for got, want, scale in zip((k, v), (want_k, want_v), self.scales, strict=True):
                assert_within_half_a_step(got, want.double(), scale.double()[:, None])
        untouched = set(range(self.PAGES * self.PAGE_SIZE)) - set(self.slots.tolist())
        for cache in self.caches:
            assert (cache.flatten(0, 1)[sorted(untouched)].float() == 9).all()
        assert all((pool[0].float() == 9).all() for pool in self.pools)
        got.zero_()
        assert torch.equal(self.fused, before), "q was returned as a view"


def assert_within_half_a_step(got, want, scale):
    """e4m3: half a step is 1/16 of a normal value, 2^-10 below that; 448 at most."""
    want = want.clamp(-448 * scale, 448 * scale)
    allowed = torch.maximum(want.abs() / 16, scale * 2.0**-10) * 1.001
    assert ((got.double() * scale - want).abs() <= allowed).all()


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim"),
    [(0, 2, 1, 8), (1, 3, 1, 64), (7, 4, 2, 6), (5, 6, 2, 96), (3, 5, 5, 128), (2, 2, 1, 256)],
)
def test_matches_float64(tokens, heads, kv_heads, dim, dtype, norm, rope, implementation, device):
    problem = Problem(tokens, heads, kv_heads, dim, dtype, device, norm=norm, rope=rope)
    problem.check(4e-6 if dtype == torch.float32 else None)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("norm", [True, False])
def test_fp8_cache_recovers_to_half_a_step(norm, rope, implementation, device):
    Problem(9, 2, 3, 64, torch.bfloat16, device, norm=norm, rope=rope, fp8=True).check()


@given(
    tokens=st.integers(1, 20),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    half=st.integers(1, 40),
    rope=st.sampled_from(ROPES),
    norm=st.booleans(),
    fp8=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_matches_float64(tokens, kv_heads, group, half, rope, norm, fp8):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with forced("triton"):
        Problem(
            tokens, kv_heads * group, kv_heads, 2 * half, torch.float32, device,
            norm=norm, rope=rope, fp8=fp8,
        ).check(4e-6)  # fmt: skip


@pytest.mark.parametrize("rope", ROPES)
def test_a_token_does_not_depend_on_its_neighbours(rope, implementation, device):
    problem = Problem(20, 6, 2, 64, torch.bfloat16, device, norm=True, rope=rope)
    q = problem.run()
    cells = [cache.clone() for cache in problem.caches]
    for tokens in (slice(0, 1), slice(13, 14), slice(3, 19)):
        for cache in problem.caches:
            cache.fill_(9)
        assert torch.equal(problem.run(tokens), q[tokens])
        slots = problem.slots[tokens]
        for cache, whole in zip(problem.caches, cells, strict=True):
            written = slots[slots >= 0]
            assert torch.equal(cache.flatten(0, 1)[written], whole.flatten(0, 1)[written])


def test_kernel_writes_the_bits_of_the_reference_without_arithmetic(device, triton_kernels):
    problem = Problem(6, 2, 2, 64, torch.bfloat16, device, norm=False, rope=None, fp8=True)
    problem.v[0] *= 1e30  # saturates
    problem.v[2] *= 1e-30
    problem.run()
    kernel, _ = problem.rows()
    with forced("reference"):
        problem.run()
    reference, _ = problem.rows()
    for got, want in zip(kernel, reference, strict=True):
        assert torch.equal(got.float(), want.float())
    assert kernel[1].float().abs().max() == 448


@pytest.mark.parametrize("rope", ROPES)
def test_large_and_zero_heads_stay_finite(rope, implementation, device):
    problem = Problem(5, 2, 1, 8, torch.bfloat16, device, norm=True, rope=rope)
    problem.fused[0] = 0
    problem.fused[2] = 3e38
    problem.fused[4] = -1e15
    q = problem.run()
    assert torch.isfinite(q.float()).all() and (q[0] == 0).all()
    assert_near(q[4:], exact(problem.q, problem.weights[0], problem.angles, rope)[4:])
    (k, _), _ = problem.rows()
    assert torch.isfinite(k.float()).all()


def test_heads_that_lie_apart_and_scattered_caches(implementation, device):
    problem = Problem(4, 3, 2, 16, torch.float32, device, norm=True, rope="half-split")
    for name in "qkv":  # [H, T, D] in memory
        x = getattr(problem, name).transpose(0, 1).contiguous().transpose(0, 1)
        setattr(problem, name, x)
    pool = torch.full((7, 5, 2, 2, 16), 9.0, device=device)  # K and V of a token side by side
    problem.caches = [pool[:, :, 0], pool[:, :, 1]]
    problem.check(4e-6)


def test_slots_of_32_bits(device, triton_kernels):
    problem = Problem(4, 2, 1, 16, torch.float32, device, norm=False, rope="half-split")
    problem.slots = problem.slots.int()
    problem.check(4e-6)


@pytest.fixture(params=["_native_avx512", "_native_avx2"])
def native_build(request, monkeypatch):
    """The test runs with each build of the C kernel that the processor can run."""
    name = request.param
    if native.library() is None or not dict(native._BUILDS)[name] <= native._processor_flags():
        pytest.skip("no C kernels were built, or none for this processor")
    function = ctypes.CDLL(str(native._path(name))).hala_rope_cache
    function.argtypes, function.restype = rope_cache._rope_cache.argtypes, None
    monkeypatch.setattr(rope_cache, "_rope_cache", function)
    with forced("auto"):
        yield


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [2, 16, 48, 64, 80, 256])
def test_each_native_build_matches_float64(dim, dtype, norm, rope, native_build):
    problem = Problem(7, 6, 2, dim, dtype, "cpu", norm=norm, rope=rope)
    problem.slots = problem.slots.int()
    tolerance = 4e-6 if dtype == torch.float32 else None
    problem.check(tolerance)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("norm", [True, False])
def test_native_rounds_where_the_reference_does(norm, rope, native_build):
    """Few elements differ, those whose sum or product lies next to the middle of two."""
    problem = Problem(30, 16, 8, 64, torch.bfloat16, "cpu", norm=norm, rope=rope)
    q, (k, v) = problem.run(), problem.rows()[0]
    with forced("reference"):
        want_q, (want_k, want_v) = problem.run(), problem.rows()[0]
    assert torch.equal(v, want_v)
    for got, want in ((q, want_q), (k, want_k)):
        assert (got != want).float().mean() < 2e-3


def test_native_bits_do_not_depend_on_the_threads(native_build):
    problem = Problem(35, 16, 8, 64, torch.bfloat16, "cpu", norm=True, rope="half-split")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append((problem.run(), *problem.rows()[0]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("dim", [7, 258])
def test_another_head_dimension_is_refused(dim, device):
    x, cache = torch.zeros(1, 1, dim, device=device), torch.zeros(1, 1, 1, dim, device=device)
    with pytest.raises(ValueError, match="head dimension"):
        rope_and_cache(x, x, x, None, None, cache, cache, torch.zeros(1, device=device).long())


def test_what_does_not_go_together_is_refused(device):
    def refused(match, **changes):
        problem = Problem(3, 2, 1, 8, torch.float32, device, norm=False, rope="half-split")
        for name, change in changes.items():
            setattr(problem, name, change(getattr(problem, name)))
        with pytest.raises(ValueError, match=match):
            problem.run()

    scale = torch.ones(1, device=device)
    refused("must be", k=lambda k: k[:, :, :4])
    refused("must be", v=lambda v: v[:2])
    refused("caches", caches=lambda c: [c[0], c[1][:3]])
    refused("cos and sin", angles=lambda a: a[:, :2])
    refused("slots", slots=lambda s: s[:2])
    refused("k_scale goes with", scales=lambda s: (scale, scale))
    refused("v_scale goes with", caches=lambda c: [c[0], c[1].to(FP8)])
    refused(
        "v_scale must be",
        caches=lambda c: [c[0], c[1].to(FP8)],
        scales=lambda s: (None, torch.ones(2)),
    )
    refused("pages of the k_cache", caches=lambda c: [c[0][:, :2], c[1][:, :2]])


def test_columns_that_do_not_follow_each_other_are_refused(device, triton_kernels):
    problem = Problem(3, 2, 1, 8, torch.float32, device, norm=False, rope="half-split")
    problem.q = problem.q.repeat_interleave(2, -1)[..., ::2]
    with pytest.raises(ValueError, match="last dimension of q"):
        problem.run()


def test_a_strided_table_of_angles_is_refused(device, triton_kernels):
    x = torch.zeros(3, 1, 8, device=device)
    cache, slots = torch.zeros(1, 4, 1, 8, device=device), torch.arange(3, device=device)
    strided = torch.zeros(3, 8, device=device)[:, ::2]
    with pytest.raises(ValueError, match="cos and sin must be contiguous"):
        rope_and_cache(x, x, x, strided, strided, cache, cache.clone(), slots)
