"""The FP8 product against float64, on every path of every kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_kernels import backend, tuning
from hala_kernels.backend import Device
from hala_kernels.fp8_gemm import fp8_gemm
from tests.kernels.compare import assert_near

FP8 = torch.float8_e4m3fn
ADA, HOPPER, BLACKWELL = (Device(f"sm_{c}", c, 4) for c in (89, 90, 100))

LARGE = {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "HALVES": 2, "GROUP_M": 2}
SMALL = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "SPLIT": 1}
REDUCE = {"BLOCK": 64}
ON_GPU = {"num_warps": 4, "num_stages": 3}


@contextmanager
def kernels(kernel: str, on: Device | None = None, **config: int) -> Iterator[None]:
    """Every product takes `kernel`, in small tiles: "large", "small" or "invariant".

    `on` stands in for the interpreter's device; a real GPU stays itself.
    """
    with ExitStack() as stack:
        if kernel == "large":
            stack.enter_context(_few_rows(0))
            stack.enter_context(tuning.forcing("fp8_gemm", {**LARGE, **ON_GPU, **config}))
        else:
            stack.enter_context(_few_rows(1 << 30))
            for table in ("fp8_gemm_small", "fp8_gemm_invariant"):
                stack.enter_context(tuning.forcing(table, {**SMALL, **ON_GPU, **config}))
            stack.enter_context(tuning.forcing("fp8_gemm_reduce", {**REDUCE, "num_warps": 4}))
        if on is not None and not torch.cuda.is_available():
            stack.enter_context(backend.standing_in(on))
        yield


@contextmanager
def _few_rows(rows: int) -> Iterator[None]:
    module = import_module("hala_kernels.fp8_gemm")
    before = module.FEW_ROWS, module.LEAST_FILLED
    module.FEW_ROWS, module.LEAST_FILLED = rows, 0.0 if rows == 0 else before[1]
    try:
        yield
    finally:
        module.FEW_ROWS, module.LEAST_FILLED = before


def operands(m: int, n: int, k: int, kind: str, device, seed: int = 0) -> tuple:
    """a, a_scale, b, b_scale. `kind`: "rows", "tensor", "mixed" or "blocks"."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(rows, k, generator=generator) * 40 for rows in (m, n))

    def scale(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * 0.02 + 1e-3

    groups, blocks = -(-k // 128), -(-n // 128)
    a_shape = {"rows": (m, 1), "tensor": (1, 1), "mixed": (1, 1), "blocks": (m, groups)}[kind]
    b_shape = {"rows": (n, 1), "tensor": (1, 1), "mixed": (n, 1), "blocks": (blocks, groups)}[kind]
    made = a.to(FP8), scale(*a_shape), b.to(FP8), scale(*b_shape)
    return tuple(x.to(device) for x in made)


def exact(a, a_scale, b, b_scale, bias=None, residual=None) -> torch.Tensor:
    (m, k), n = a.shape, b.shape[0]

    def spread(scale: torch.Tensor, rows: int, block: int) -> torch.Tensor:
        scale = scale.double().repeat_interleave(block, 0) if scale.shape[0] > 1 else scale.double()
        scale = scale.expand(max(rows, scale.shape[0]), -1)[:rows]
        return scale.repeat_interleave(128, 1)[:, :k] if scale.shape[1] > 1 else scale

    blocked = b_scale.shape not in ((n, 1), (1, 1))
    out = (a.double() * spread(a_scale, m, 1)) @ (
        b.double() * spread(b_scale, n, 128 if blocked else 1)
    ).t()
    out = out if bias is None else out + bias.double()
    return out if residual is None else out + residual.double()


def extras(m: int, n: int, device, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    bias, residual = (torch.randn(*s, generator=generator) * 20 for s in ((n,), (m, n)))
    return {"bias": bias.to(device, dtype), "residual": residual.to(device, dtype)}


SHAPES = [(1, 1, 16), (33, 130, 272), (70, 96, 144)]
PATHS = [
    ("large", None),
    ("large", ADA),
    ("large", HOPPER),
    ("large", BLACKWELL),
    ("small", None),
    ("small", ADA),
    ("small", HOPPER),
]


@pytest.mark.parametrize(("kernel", "on"), PATHS)
@pytest.mark.parametrize("kind", ["rows", "tensor", "mixed", "blocks"])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_product_matches_float64(kernel, on, kind, m, n, k, device, triton_kernels):
    given = operands(m, n, k, kind, device)
    with kernels(kernel, on):
        assert_near(fp8_gemm(*given), exact(*given))


@pytest.mark.parametrize(("kernel", "on"), PATHS)
@pytest.mark.parametrize("kind", ["rows", "blocks"])
@pytest.mark.parametrize(("dtype", "n"), [(torch.bfloat16, 96), (torch.float32, 100)])
def test_bias_and_residual_are_added_before_the_rounding(
    kernel, on, kind, dtype, n, device, triton_kernels
):
    given, added = operands(17, n, 160, kind, device), extras(17, n, device, dtype)
    with kernels(kernel, on, SPLIT=2) if kernel == "small" else kernels(kernel, on):
        got = fp8_gemm(*given, **added, out_dtype=dtype)
        assert got.dtype == dtype
        assert_near(got, exact(*given, **added))
        for name in added:
            one = {name: added[name]}
            assert_near(fp8_gemm(*given, **one, out_dtype=dtype), exact(*given, **one))


@pytest.mark.parametrize("kind", ["rows", "blocks"])
def test_reference_adds_bias_and_residual_too(kind, device):
    given, added = operands(17, 96, 160, kind, device), extras(17, 96, device, torch.float32)
    with backend.forced("reference"):
        got = fp8_gemm(*given, **added, out_dtype=torch.float32)
    assert_near(got, exact(*given, **added))


@pytest.mark.parametrize("on", [None, HOPPER])
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("n", [100, 384])  # the second half beyond the end, and a block of its own
def test_each_half_of_a_tile_has_the_scale_of_its_block(on, halves, n, device, triton_kernels):
    given = operands(20, n, 272, "blocks", device)
    with kernels("large", on, BLOCK_N=128 * halves, HALVES=halves):
        assert_near(fp8_gemm(*given), exact(*given))


@pytest.mark.parametrize("on", [None, HOPPER])
@pytest.mark.parametrize("kind", ["rows", "blocks"])
@pytest.mark.parametrize("split", [1, 3, 4])
@pytest.mark.parametrize("k", [16, 208, 320])  # 1, 4 and 5 steps
def test_any_split_of_k(on, kind, split, k, device, triton_kernels):
    given = operands(2, 130, k, kind, device)
    with kernels("small", on, SPLIT=split):
        got = fp8_gemm(*given, out_dtype=torch.float32)
        assert torch.equal(got, fp8_gemm(*given, out_dtype=torch.float32))
    assert_near(got, exact(*given))


@pytest.mark.parametrize("m", [0, 1, 2])
def test_no_token_and_one(m, device, implementation):
    for kind in ("rows", "blocks"):
        given = operands(m, 48, 32, kind, device)
        for invariant in (False, True):
            got = fp8_gemm(*given, invariant=invariant)
            assert got.shape == (m, 48)
            assert_near(got, exact(*given))


@settings(max_examples=20, deadline=None)
@given(
    m=st.integers(1, 80),
    n=st.integers(1, 150),
    k=st.integers(1, 300),
    kind=st.sampled_from(["rows", "tensor", "mixed", "blocks"]),
    on=st.sampled_from([None, ADA, HOPPER, BLACKWELL]),
    kernel=st.sampled_from(["large", "small"]),
    seed=st.integers(0, 1000),
)
def test_any_shape(m, n, k, kind, on, kernel, seed):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = operands(m, n, k, kind, device, seed)
    with backend.forced("triton"), kernels(kernel, on):
        assert_near(fp8_gemm(*made, out_dtype=torch.float32), exact(*made), 1e-5)
    with backend.forced("reference"):
        assert_near(fp8_gemm(*made, out_dtype=torch.float32), exact(*made), 1e-5)


@pytest.mark.parametrize(("kernel", "on"), [*PATHS, ("unaligned", None)])
@pytest.mark.parametrize("kind", ["rows", "blocks"])
def test_largest_magnitudes(kernel, on, kind, device, triton_kernels):
    k = 150 if kernel == "unaligned" else 160
    a, a_scale, b, b_scale = operands(20, 48, k, kind, device)
    a = torch.full_like(a, 448.0)
    b = torch.where(torch.arange(48, device=device)[:, None] % 2 == 0, 448.0, -448.0).to(FP8)
    b = b.expand(48, k).contiguous()
    a[3], a_scale[4] = 0, 1e-30
    a_scale[5] = 1e15
    with kernels("small" if kernel == "unaligned" else kernel, on):
        got = fp8_gemm(a, a_scale, b, b_scale)
    assert_near(got[:3], exact(a[:3], a_scale[:3], b, b_scale))
    assert (got[3] == 0).all()
    assert_near(got[5:6], exact(a[5:6], a_scale[5:6], b, b_scale))
    assert torch.isfinite(got).all()


@pytest.mark.parametrize(("kernel", "on"), PATHS)
def test_rows_may_be_strided(kernel, on, device, implementation):
    wide_a, wide_b = (torch.randn(rows, 352, device=device).to(FP8) for rows in (20, 72))
    a, b = wide_a[:, 64:240], wide_b[::2, 16:192]
    added = extras(20, 112, device)["residual"][:, 32:68]
    given = a, torch.rand(20, 2, device=device)[:, :1], b, torch.rand(36, 2, device=device)[:, 1:]
    with kernels(kernel, on):
        assert_near(fp8_gemm(*given, residual=added), exact(*given, residual=added))


@pytest.mark.parametrize("on", [None, ADA, HOPPER, BLACKWELL])
@pytest.mark.parametrize("kind", ["rows", "blocks"])
def test_invariant_rows_have_the_same_bits_in_any_batch(on, kind, device, triton_kernels):
    """And in the launches nothing depends on the batch but the number of tiles."""
    a, a_scale, b, b_scale = operands(200, 144, 272, kind, device)
    launches = set()

    def recording(kernel, grid, *args, **options) -> None:
        fixed = [x for x in args if isinstance(x, str | bool)]
        launches.add((kernel.__name__, grid[1:], *fixed, *sorted(options.items())))
        run(kernel, grid, *args, **options)

    run = backend._run
    with ExitStack() as stack:
        if on is not None and not torch.cuda.is_available():
            stack.enter_context(backend.standing_in(on))
        stack.enter_context(backend.launching_with(recording))

        def rows(start: int, end: int) -> torch.Tensor:
            scale = a_scale[start:end]
            return fp8_gemm(a[start:end], scale, b, b_scale, invariant=True)

        alone = {i: rows(i, i + 1) for i in (0, 1, 2, 16, 63, 64, 150, 199)}
        for m in (1, 3, 17, 64, 65, 200):
            for start in {0, 200 - m}:
                batch = rows(start, start + m)
                for i, row in alone.items():
                    if start <= i < start + m:
                        assert torch.equal(batch[i - start], row[0]), (m, start, i)
    assert len(launches) == 1
    assert_near(torch.cat(list(alone.values())), exact(a, a_scale, b, b_scale)[list(alone)])


def test_invariance_survives_a_split(device, triton_kernels):
    a, a_scale, b, b_scale = operands(20, 100, 272, "rows", device)
    with kernels("invariant", SPLIT=3):
        batch = fp8_gemm(a, a_scale, b, b_scale, invariant=True)
        for i in (0, 7, 19):
            one = fp8_gemm(a[i : i + 1], a_scale[i : i + 1], b, b_scale, invariant=True)
            assert torch.equal(batch[i], one[0])


TABLES = ["fp8_gemm", "fp8_gemm_small", "fp8_gemm_invariant"]


@pytest.mark.parametrize("on", [ADA, HOPPER, BLACKWELL], ids=lambda d: d.name)
@pytest.mark.parametrize("table", TABLES)
def test_every_shipped_configuration(table, on, device, triton_kernels):
    if torch.cuda.is_available():
        on = backend.device_of(torch.empty(0, device=device))
    seen = []
    for entry in tuning.table_for(table, on).entries:
        blocked, config = entry.where.get("block", 0), dict(entry.config)
        if (blocked, config) in seen:
            continue
        seen.append((blocked, config))
        given = operands(3, 144, 144, "blocks" if blocked else "rows", device)
        kernel = {"fp8_gemm": "large"}.get(table, "small")
        with kernels(kernel, on, **config):
            got = fp8_gemm(*given, invariant=table == "fp8_gemm_invariant")
        assert_near(got, exact(*given))


@pytest.mark.parametrize(
    ("m", "n", "names"),
    [
        (1, 64, ["_streaming_kernel"]),
        (64, 4096, ["_streaming_kernel", "_add_parts_kernel"]),
        (65, 640, ["_streaming_kernel"]),
        (65, 65536, ["_persistent_kernel"]),
        (4096, 4096, ["_persistent_kernel"]),
    ],
)
def test_kernel_is_chosen_by_the_tiles_there_are(m, n, names, triton_kernels):
    launched, k = [], 8192 if m == 64 else 2048
    with (
        backend.standing_in(Device("sm_90", 90, 132)),
        backend.launching_with(lambda kernel, *_, **__: launched.append(kernel.__name__)),
    ):
        shapes = ((m, k, FP8), (m, 1, torch.float32), (n, k, FP8), (n, 1, torch.float32))
        fp8_gemm(*(torch.empty(r, c, dtype=d, device="meta") for r, c, d in shapes))
    assert launched[: len(names)] == names


def test_precise_sums_are_the_default_where_the_tensor_cores_have_fewer_bits(triton_kernels):
    def accumulation(on: Device, kind: str = "rows", **options: bool) -> tuple[str, int]:
        seen = []
        with (
            backend.standing_in(on),
            backend.launching_with(lambda *_, **o: seen.append((o["ACCUMULATE"], o["PARTIAL"]))),
        ):
            made = operands(600, 600, 256, kind, "meta")
            fp8_gemm(*made, **options)
        return seen[0]

    for capability, precise in ((89, ("added", 128)), (90, ("promoted", 128)), (100, ("chain", 0))):
        on = Device(f"sm_{capability}", capability, 4)
        assert accumulation(on) == precise
        assert accumulation(on, invariant=True, fast_accum=True) == precise
        assert accumulation(on, fast_accum=True) == ("chain", 0)
        assert accumulation(on, "blocks", fast_accum=True) == ("scaled", 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": lambda x: x.float()}, "float8_e4m3fn"),
        ({"b": lambda x: x.t()}, "contiguous rows"),
        ({"a": lambda x: x[0]}, "two dimensions"),
        ({"a": lambda x: x[:, :128]}, "same columns"),
        ({"a": lambda x: x[:, :0], "b": lambda x: x[:, :0]}, "and some"),
        ({"a_scale": lambda x: x.double()}, "float32"),
        ({"a_scale": lambda x: x[:3]}, "a_scale must be"),
        ({"b_scale": lambda x: x[:3]}, "b_scale must be"),
        ({"b_scale": lambda x: x.t()}, "b_scale must be"),
        ({"b_scale": lambda x: x.new_ones(2, 2)}, "a_scale must be"),
        ({"bias": lambda x: x[:3]}, "bias must be"),
        ({"residual": lambda x: x[:, :3]}, "residual must be"),
        ({"out_dtype": lambda x: torch.int8}, "result may be"),
    ],
)
def test_operands_that_do_not_fit_are_refused(changed, message, device, implementation):
    a, a_scale, b, b_scale = operands(4, 192, 160, "rows", device)
    named = {"a": a, "a_scale": a_scale, "b": b, "b_scale": b_scale, "out_dtype": None}
    named |= extras(4, 192, device)
    for name, change in changed.items():
        named[name] = change(named[name])
    named["out_dtype"] = named["out_dtype"] or torch.bfloat16
    with pytest.raises(ValueError, match=message):
        fp8_gemm(**named)
