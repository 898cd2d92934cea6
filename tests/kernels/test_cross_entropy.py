"""The fused output layer and cross-entropy against float64 autograd of its two steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hala_kernels import cross_entropy, tuning
from hala_kernels.cross_entropy import Head, chunk_size, linear_cross_entropy, row_losses
from tests.kernels.compare import assert_near, relative_error

# exp overflows to inf on purpose (tanh is then 1), and columns beyond V hold whatever was there.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

HEADS = [{}, {"softcap": 4.0}, {"logit_scale": 0.25, "softcap": 3.0}, {"logit_scale": 2.0}]
F32_TOLERANCE = 2e-5
IGNORED = -100


def two_steps(hidden, weight, targets, ignore_index=IGNORED, logit_scale=1.0, softcap=None):
    logits = F.linear(hidden, weight) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")


def with_gradients(loss_of, hidden, weight, targets, scale=1.0, **head):
    """(scale * loss, its gradients for hidden and weight)."""
    hidden, weight = (x.detach().requires_grad_() for x in (hidden, weight))
    loss = loss_of(hidden, weight, targets, **head) * scale
    return loss.detach(), *torch.autograd.grad(loss, (hidden, weight))


def exact(hidden, weight, targets, scale=1.0, **head):
    return with_gradients(two_steps, hidden.double(), weight.double(), targets, scale, **head)


def inputs(tokens, vocab, width, device, dtype=torch.float32, spread=1.0):
    hidden = torch.randn(tokens, width, device=device).to(dtype)
    weight = (torch.randn(vocab, width, device=device) * spread / width**0.5).to(dtype)
    return hidden, weight, torch.randint(vocab, (tokens,), device=device)


def assert_all_near(got, want, tolerance=F32_TOLERANCE):
    for ours, expected in zip(got, want, strict=True):
        assert_near(ours, expected, tolerance)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize(("tokens", "vocab", "width"), [(1, 7, 3), (9, 1000, 17), (3, 5003, 33)])
def test_loss_and_gradients_match_float64(tokens, vocab, width, head, implementation, device):
    hidden, weight, targets = inputs(tokens, vocab, width, device, spread=3.0)
    targets[1::3] = IGNORED
    before = hidden.clone(), weight.clone()
    got = with_gradients(linear_cross_entropy, hidden, weight, targets, **head)
    assert got[0].dtype == torch.float32 and got[0].shape == ()
    assert_all_near(got, exact(hidden, weight, targets, **head))
    assert torch.equal(hidden, before[0]) and torch.equal(weight, before[1])


@pytest.mark.parametrize("head", HEADS[:3], ids=str)
@pytest.mark.parametrize(("tokens", "vocab", "width"), [(33, 1000, 65), (5, 5003, 31)])
def test_bfloat16_is_as_near_as_two_steps(tokens, vocab, width, head, implementation, device):
    args = inputs(tokens, vocab, width, device, torch.bfloat16, spread=3.0)
    want = exact(*args, scale=1 / 30, **head)
    ours = with_gradients(linear_cross_entropy, *args, scale=1 / 30, **head)
    theirs = with_gradients(two_steps, *args, scale=1 / 30, **head)
    assert ours[1].dtype == ours[2].dtype == torch.bfloat16
    # A sum of losses is one number, and the peer's error may be next to nothing by chance.
    assert relative_error(ours[0], want[0]) <= max(5e-4, relative_error(theirs[0], want[0]))
    for got, peer, expected in zip(ours[1:], theirs[1:], want[1:], strict=True):
        assert relative_error(got, expected) <= 1.25 * relative_error(peer, expected)


def test_a_float32_weight_gets_a_float32_gradient_beside_bfloat16_hidden(implementation, device):
    hidden, weight, targets = inputs(7, 100, 16, device)
    hidden = hidden.bfloat16()
    loss, d_hidden, d_weight = with_gradients(linear_cross_entropy, hidden, weight, targets)
    assert d_hidden.dtype == torch.bfloat16 and d_weight.dtype == torch.float32
    want = exact(hidden, weight.bfloat16(), targets)
    assert_near(loss, want[0], 1e-3)
    assert_near(d_hidden, want[1], 1e-2)
    assert_near(d_weight, want[2], 1e-2)


@pytest.mark.parametrize("ignore_index", [IGNORED, 0, 11])
def test_ignored_tokens_count_for_nothing(ignore_index, implementation, device):
    hidden, weight, targets = inputs(8, 12, 5, device)
    targets[::2] = ignore_index
    head = {"ignore_index": ignore_index, "softcap": 2.0}
    got = with_gradients(linear_cross_entropy, hidden, weight, targets, **head)
    assert_all_near(got, exact(hidden, weight, targets, **head))
    assert (got[1][::2] == 0).all()
    hidden[::2] *= 1e4
    again = with_gradients(linear_cross_entropy, hidden, weight, targets, **head)
    assert torch.equal(again[0], got[0])
    assert_near(again[2], got[2].double(), F32_TOLERANCE)


@pytest.mark.parametrize("tokens", [0, 6])
def test_nothing_supervised_gives_zeros(tokens, implementation, device):
    hidden, weight, targets = inputs(tokens, 20, 4, device)
    targets.fill_(IGNORED)
    loss, d_hidden, d_weight = with_gradients(linear_cross_entropy, hidden, weight, targets)
    assert loss == 0 and (d_hidden == 0).all() and (d_weight == 0).all()
    assert d_hidden.shape == hidden.shape and d_weight.shape == weight.shape
    assert linear_cross_entropy(hidden, weight, targets) == 0


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_logits_of_ten_thousand_stay_finite(head, implementation, device):
    hidden, weight, targets = inputs(6, 50, 8, device)
    hidden[:-1] *= 1e4  # not the last, so that soft-capped gradients are not all next to nothing
    targets[:3] = (hidden @ weight.t())[:3].argmax(-1)  # half of them right with certainty
    got = with_gradients(linear_cross_entropy, hidden, weight, targets, **head)
    assert all(torch.isfinite(x).all() for x in got)
    # A float32 logit of 1e4 is off by 5e-4, and a softmax by as much.
    assert_all_near(got, exact(hidden, weight, targets, **head), 2e-3)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 3),
    vocab=st.integers(1, 100),
    gradient=st.booleans(),
    scale=st.sampled_from([1.0, 0.25, -1.5]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    spread=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_rows_over_many_blocks(
    rows, vocab, gradient, scale, softcap, spread, seed, triton_kernels, device
):
    """The kernel alone, in blocks of 16 columns: every way that a row can end in one."""
    torch.manual_seed(seed)
    logits = torch.randn(rows, vocab, device=device) * spread
    targets = torch.randint(-1, vocab, (rows,), device=device)
    z = logits.double().requires_grad_()
    y = z * scale
    y = y if softcap is None else softcap * torch.tanh(y / softcap)
    want = F.cross_entropy(y, targets, ignore_index=-1, reduction="none")
    padded = torch.full((rows, -(-vocab // 16) * 16), float("nan"), device=device)
    work = padded[:, :vocab].copy_(logits)
    losses = torch.empty(rows, device=device)
    with tuning.forcing("cross_entropy", {"BLOCK": 16, "num_warps": 1}):
        row_losses(work, targets, losses, gradient, Head(-1, scale, softcap))
    torch.testing.assert_close(losses.double(), want.detach(), rtol=1e-5, atol=2e-5)
    if gradient:
        (expected,) = torch.autograd.grad(want.sum(), z)
        torch.testing.assert_close(work.double(), expected, rtol=1e-4, atol=2e-5)
    else:
        assert torch.equal(work, logits)


@pytest.mark.parametrize("peak", [0, 40, 99])
def test_a_row_may_rise_and_fall_steeply(peak, triton_kernels, device):
    logits = torch.zeros(1, 112, device=device)
    logits[0, peak] = 1000.0
    work, losses = logits.clone(), torch.empty(1, device=device)
    with tuning.forcing("cross_entropy", {"BLOCK": 16, "num_warps": 1}):
        row_losses(work, torch.tensor([3], device=device), losses, True, Head(IGNORED, 1.0, None))
    assert losses.item() == 1000
    want = torch.zeros(1, 112, device=device)
    want[0, 3], want[0, peak] = -1, 1
    assert torch.equal(work, want)


def test_a_row_does_not_depend_on_its_neighbours(implementation, device):
    logits = torch.randn(5, 5008, device=device).bfloat16()[:, :5003] * 5
    targets = torch.tensor([0, 5002, IGNORED, 17, 4096], device=device)
    head = Head(IGNORED, 0.5, 20.0)
    together, losses = logits.clone(), torch.empty(5, device=device)
    row_losses(together, targets, losses, True, head)
    for i in range(5):
        alone, loss = logits[i : i + 1].clone(), torch.empty(1, device=device)
        row_losses(alone, targets[i : i + 1], loss, True, head)
        assert torch.equal(alone[0], together[i]) and torch.equal(loss[0], losses[i])


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_chunks_change_nothing_but_rounding(chunk, implementation, device, monkeypatch):
    hidden, weight, targets = inputs(10, 130, 12, device)
    targets[3] = IGNORED
    whole = with_gradients(linear_cross_entropy, hidden, weight, targets, softcap=5.0)
    monkeypatch.setattr(cross_entropy, "chunk_size", lambda *_: chunk)
    got = with_gradients(linear_cross_entropy, hidden, weight, targets, softcap=5.0)
    assert_all_near(got, exact(hidden, weight, targets, softcap=5.0))
    assert_all_near(got, [x.double() for x in whole])
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets, softcap=5.0), got[0])


@pytest.mark.parametrize("vocab", [7, 65536, 151936, 256000, 10**7])
@pytest.mark.parametrize("tokens", [0, 1, 127, 129, 4096, 4097, 8192, 32768, 100_001])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_chunks_are_equal_full_tiles_within_the_budget(tokens, vocab, dtype, kind):
    like = torch.empty(0, dtype=dtype, device=kind)
    step = chunk_size(tokens, vocab, like)
    assert step % 128 == 0 and step >= 128
    budget = max(cross_entropy.LOGITS_BYTES["cpu"], 256 * vocab * like.element_size())
    assert step <= cross_entropy.MOST_TOKENS
    assert min(step, tokens) * vocab * like.element_size() <= budget
    chunks = math.ceil(tokens / step)
    assert tokens == 0 or chunks * step - tokens < 128 * chunks  # no chunk is nearly empty


def test_gradients_add_up_over_calls(implementation, device):
    hidden, weight, targets = inputs(12, 40, 6, device)
    hidden.requires_grad_(), weight.requires_grad_()
    for part in (slice(0, 5), slice(5, 12)):
        (linear_cross_entropy(hidden[part], weight, targets[part]) / 12).backward()
    want = exact(hidden, weight, targets, scale=1 / 12)
    assert_near(hidden.grad, want[1], F32_TOLERANCE)
    assert_near(weight.grad, want[2], F32_TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_runs_are_the_same_bits(dtype, implementation, device, monkeypatch):
    monkeypatch.setattr(cross_entropy, "chunk_size", lambda *_: 8)
    args = inputs(20, 300, 24, device, dtype)
    first = with_gradients(linear_cross_entropy, *args, softcap=10.0)
    again = with_gradients(linear_cross_entropy, *args, softcap=10.0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, -3.7e-3, 1e4])
def test_the_gradient_of_the_loss_scales_both(scale, dtype, implementation, device):
    args = inputs(5, 64, 8, device, dtype)
    _, *ones = with_gradients(linear_cross_entropy, *args)
    _, *scaled = with_gradients(linear_cross_entropy, *args, scale=scale)
    for one, got in zip(ones, scaled, strict=True):
        tolerance = 1e-6 if dtype == torch.float32 else 6e-3
        assert relative_error(got, one.double() * scale) <= tolerance


def test_each_gradient_can_be_asked_for_alone(implementation, device):
    hidden, weight, targets = inputs(6, 33, 9, device)
    _, d_hidden, d_weight = with_gradients(linear_cross_entropy, hidden, weight, targets)
    hidden.requires_grad_()
    (alone,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), hidden)
    assert torch.equal(alone, d_hidden)
    weight.requires_grad_()
    (alone,) = torch.autograd.grad(linear_cross_entropy(hidden.detach(), weight, targets), weight)
    assert torch.equal(alone, d_weight)
    loss = linear_cross_entropy(hidden, weight, targets)  # one after the other
    (first,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight)
    assert torch.equal(first, d_hidden) and torch.equal(second, d_weight)


def test_second_derivatives_are_refused(implementation, device):
    hidden, weight, targets = inputs(3, 10, 4, device)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_views_are_read_in_place(implementation, device):
    wide, weight, _ = inputs(8, 40, 30, device)
    targets = torch.randint(40, (8, 3), device=device)[:, 1]
    hidden, weight = wide[::2, 5:17], weight[:, 10:22]
    got = with_gradients(linear_cross_entropy, hidden, weight, targets[::2])
    assert_all_near(got, exact(hidden, weight, targets[::2]))


class Live(TorchDispatchMode):
    """Most bytes alive at once in storages made within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {StorageWeakRef(x.untyped_storage()) for x in tensors((args, kwargs))}
        for x in tensors(result):
            ref = StorageWeakRef(x.untyped_storage())
            if ref not in given:
                self.storages[ref] = x.untyped_storage().nbytes()
        self.storages = {ref: n for ref, n in self.storages.items() if not ref.expired()}
        self.most = max(self.most, sum(self.storages.values()))
        return result


def tensors(tree) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def peak_bytes(device, call) -> int:
    if device.type == "cuda":
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with Live() as live:
        call()
    return live.most


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_are_never_held_for_more_than_a_chunk(
    gradients, dtype, implementation, device, monkeypatch
):
    tokens, vocab, width, chunk = 512, 1024, 16, 16
    monkeypatch.setattr(cross_entropy, "chunk_size", lambda *_: chunk)
    monkeypatch.setattr(cross_entropy, "REFERENCE_LOGITS", vocab)
    # Rows without a target are soon done, and the interpreter is slow.
    hidden, weight, targets = inputs(tokens, vocab, width, device, dtype)
    targets[5:] = IGNORED
    hidden.requires_grad_(gradients), weight.requires_grad_(gradients)

    def call():
        loss = linear_cross_entropy(hidden, weight, targets, softcap=30.0)
        if gradients:
            torch.autograd.grad(loss, (hidden, weight))

    size = hidden.element_size()
    bound = chunk * vocab * size  # the logits
    bound += 4 * tokens  # losses
    bound += 4 * 4 * vocab + 2048  # a reference row or so, and scalars
    if gradients:
        sums, returned = 4, size  # bytes an element
        # On a CPU a bf16 product is made before it is added to the float32 sum.
        product = size if device.type == "cpu" and size < 4 else 0
        bound += (tokens + vocab) * width * (sums + max(returned, product))
    assert bound < tokens * vocab * size / (2 if gradients else 8)
    peak = peak_bytes(device, call)
    slack = 32 * 2**20 if device.type == "cuda" else 0  # cuBLAS's workspace
    assert chunk * vocab * size <= peak <= bound + slack


def test_without_gradients_only_the_logits_are_multiplied(device, monkeypatch):
    hidden, weight, targets = inputs(4, 30, 5, device)
    weight.requires_grad_()
    monkeypatch.setattr(cross_entropy, "_multiply", None)  # calling it would raise
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    assert torch.equal(linear_cross_entropy(hidden, weight.detach(), targets), loss)


@pytest.mark.parametrize("target", [10, -1, 2**40])
def test_a_target_outside_the_vocabulary(target, implementation, device):
    hidden, weight, targets = inputs(3, 10, 4, device)
    targets[1] = target
    if implementation == "triton":
        assert linear_cross_entropy(hidden, weight, targets).isnan()
    elif device.type == "cpu":
        with pytest.raises(IndexError, match="out of bounds"):
            linear_cross_entropy(hidden, weight, targets)


def wrong(**change) -> tuple:
    arguments = {
        "hidden": torch.zeros(3, 4),
        "weight": torch.zeros(10, 4),
        "targets": torch.zeros(3, dtype=torch.int64),
    } | change
    return tuple(arguments.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (wrong(hidden=torch.zeros(3, 5)), "do not fit"),
        (wrong(hidden=torch.zeros(1, 3, 4)), "do not fit"),
        (wrong(targets=torch.zeros(2, dtype=torch.int64)), "targets"),
        (wrong(targets=torch.zeros(3, dtype=torch.int32)), "targets"),
        (wrong(hidden=torch.zeros(3, 4).half()), "hidden is"),
        (wrong(weight=torch.zeros(10, 4).bfloat16()), "weight is"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        linear_cross_entropy(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("softcap", [0.0, -1.0, float("nan")])
def test_a_softcap_is_positive(softcap):
    with pytest.raises(ValueError, match="softcap"):
        linear_cross_entropy(*wrong(), softcap=softcap)
