"""Each way of packed attention against every document alone, in float64 and by plain arithmetic."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as flex

from hala_trainer.errors import InputError
from hala_trainer.model import attention

# With one-token documents, padding at a row's end, blocks of 128 inside one document, and in SHORT
# rows of one document that follow each other.
LENGTHS = [[1, 9, 1, 1, 70, 290, 28], [400]]
SHORT = [[1, 9, 1, 1, 40, 28], [80], [80]]
HEADS, KV_HEADS, WIDTH = 4, 2, 16
SCALING = 0.3
WINDOW = 20
WAYS = ["dense", "spans", "flex"]
RULES = [(None, None), (WINDOW, None), (None, 2.0), (WINDOW, 2.0)]


def numbered(lengths: list[list[int]]) -> torch.Tensor:
    rows = [torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths]
    return torch.stack(rows).int()


def inputs(documents: torch.Tensor, kv_heads: int = KV_HEADS, dtype=torch.float32) -> list:
    """query, key, value as a model lays them out, and a gradient of the result."""
    rows, length = documents.shape
    generator = torch.Generator().manual_seed(0)
    made = []
    for heads in (HEADS, kv_heads, kv_heads):
        x = torch.randn(rows, length, heads, WIDTH, generator=generator) * 1.5
        made.append(x.to(dtype).transpose(1, 2).requires_grad_())
    return [*made, torch.randn(rows, length, HEADS, WIDTH, generator=generator).to(dtype)]


def alone(query, key, value, lengths, window, softcap) -> torch.Tensor:
    """Token by token in float64: the softmax over what the token's own document holds so far."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = (x.double() for x in (query, key, value))
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    rows = []
    for row, documents in enumerate(lengths):
        results, begin = [], 0
        for size in documents:
            for token in range(begin, begin + size):
                first = max(begin, token - (window or size) + 1)
                seen = slice(first, token + 1)
                score = torch.einsum("hd,htd->ht", query[row, :, token], key[row, :, seen])
                score = score * SCALING
                if softcap is not None:
                    score = softcap * torch.tanh(score / softcap)
                results.append(torch.einsum("ht,htd->hd", score.softmax(-1), value[row, :, seen]))
            begin += size
        rows.append(torch.stack(results))
    return torch.stack(rows)


def packed(way, query, key, value, documents, window, softcap) -> torch.Tensor:
    build = {
        "dense": lambda *a: attention.visible(*a).unsqueeze(1),
        "spans": attention.spans,
        "flex": attention.block_mask,
    }[way]
    mask = build(documents, window or documents.shape[1])
    return attention.packed_attention(None, query, key, value, mask, SCALING, softcap)[0]


@pytest.fixture(autouse=True)
def flex_on_cpu(monkeypatch):
    """FlexAttention uncompiled is plain torch; only its check of the device forbids gradients."""
    monkeypatch.setattr(attention, "_compiled_flex", flex.flex_attention)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.parametrize(("window", "softcap"), RULES)
@pytest.mark.parametrize("way", WAYS)
def test_each_document_gets_result_and_gradients_of_being_alone(way, window, softcap):
    documents = numbered(SHORT)
    *parts, gradient = inputs(documents)
    out = packed(way, *parts, documents, window, softcap)
    want = alone(*parts, SHORT, window, softcap)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(out, parts, gradient)
    exact = torch.autograd.grad(want, parts, gradient.double())
    for got, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("window", "softcap"), RULES)
@pytest.mark.parametrize("way", ["dense", "spans"])
def test_rows_of_several_blocks_agree_with_flex_attention(way, window, softcap):
    documents = numbered(LENGTHS)
    *parts, gradient = inputs(documents)
    ours = packed(way, *parts, documents, window, softcap)
    theirs = packed("flex", *parts, documents, window, softcap)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, parts, gradient),
        torch.autograd.grad(theirs, parts, gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kv_heads", [1, HEADS])
def test_heads_may_share_one_key_or_have_their_own(way, kv_heads):
    documents = numbered(SHORT)
    *parts, _ = inputs(documents, kv_heads)
    want = alone(*parts, SHORT, None, None)
    out = packed(way, *parts, documents, None, None)
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_without_document_numbers_neighbours_are_read(way):
    documents = numbered(SHORT)
    *parts, _ = inputs(documents)
    want = alone(*parts, SHORT, None, None)
    out = packed(way, *parts, torch.zeros_like(documents), None, None)
    assert (out.double() - want).abs().max() > 0.1


@pytest.mark.parametrize("way", ["dense", "spans"])
def test_bfloat16_in_is_bfloat16_out_and_rounded_little_more_than_that(way):
    documents = numbered(SHORT)
    *parts, gradient = inputs(documents, dtype=torch.bfloat16)
    out = packed(way, *parts, documents, None, 2.0)
    out.backward(gradient)
    assert out.dtype == parts[0].grad.dtype == torch.bfloat16
    want = alone(*parts, SHORT, None, 2.0)
    assert (out.double() - want).norm() / want.norm() < 2**-7


def random_documents(rows: int, length: int, mean: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(rows, length, generator=generator) < 1 / mean
    return starts.int().cumsum(1, dtype=torch.int32)


@pytest.mark.parametrize("window", [None, 1, 128, 129, 255, 256])
@pytest.mark.parametrize(("length", "mean"), [(128, 40), (300, 9), (513, 400), (1024, 300)])
def test_block_mask_is_that_of_create_block_mask(length, mean, window):
    documents = random_documents(3, length, mean, seed=length)
    ours = attention.block_mask(documents, window or length)
    theirs = flex.create_block_mask(ours.mask_mod, 3, None, length, length, device="cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, wanted = (getattr(m, f"{kind}_num_blocks") for m in (ours, theirs))
        assert torch.equal(counts, wanted), kind
        places = torch.arange(-(-length // attention.BLOCK)) < counts.unsqueeze(-1)
        a, b = (getattr(m, f"{kind}_indices") for m in (ours, theirs))
        assert torch.equal(a[places], b[places]), kind
    assert ours.seq_lengths == theirs.seq_lengths


def test_long_rows_get_a_block_mask_without_any_matrix_over_their_tokens():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in torch.utils._pytree.tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    self.elements = max(self.elements, x.numel())
            return out

    documents = random_documents(1, 32768, 500, seed=0)
    with Largest() as largest:
        attention.block_mask(documents, 4096)
    assert largest.elements <= 2 * (32768 // 128 + 1) ** 2


def test_spans_hold_whole_documents_and_gather_only_short_ones():
    documents = random_documents(4, 500, 25, seed=1)
    cut = attention.spans(documents, 500)
    assert sum(cut.lengths) == documents.numel()
    pieces = torch.stack(
        [documents.flatten(), torch.arange(4).repeat_interleave(500)], dim=1
    ).split(cut.lengths)
    for left, right in pairwise(pieces):
        assert not torch.equal(left[-1], right[0]), "a document is cut"
    several = [len(piece.unique(dim=0)) > 1 for piece in pieces]
    assert any(several)
    assert all(n <= attention.SPAN for n, more in zip(cut.lengths, several, strict=True) if more)
    assert all((m is None) == (not more) for m, more in zip(cut.masks, several, strict=True))


def test_every_batch_runs_the_same_compiled_graph():
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def run(query, key, value, mask):
        return attention.packed_attention(None, query, key, value, mask, SCALING, 2.0)[0]

    for seed in range(4):
        documents = random_documents(2, 200, 30, seed)
        parts = [x.detach() for x in inputs(documents)[:3]]
        out = run(*parts, attention.block_mask(documents, 64))
        torch.testing.assert_close(out, packed("spans", *parts, documents, 64, 2.0))
        run(*parts, attention.visible(documents, 64).unsqueeze(1))
    assert counter.frame_count == 2  # one for each of the two kinds of mask


def test_spans_that_differ_in_every_batch_compile_nothing_anew():
    counter = CompileCounter()

    @torch.compile(backend=counter)
    def run(query, key, value, mask):
        out, _ = attention.packed_attention(None, query * 2, key, value, mask, SCALING)
        return out * 2

    frames = []
    for seed in range(4):
        documents = random_documents(2, 200, 30, seed)
        parts = [x.detach() for x in inputs(documents)[:3]]
        run(*parts, attention.spans(documents, 200))
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1] > 0


def test_the_meta_device_keeps_what_flex_attention_keeps():
    rows, heads, kv_heads, length, width = 2, 4, 2, 300, 16
    shapes = [(rows, n, length, width) for n in (heads, kv_heads, kv_heads)]
    parts = [torch.empty(s, dtype=torch.bfloat16, device="meta").requires_grad_() for s in shapes]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out, _ = attention.packed_attention(None, *parts, None, SCALING)
    assert out.shape == (rows, length, heads, width)
    assert out.dtype == torch.bfloat16
    log_sum_exp = 4 * rows * heads * length
    counters = sum(t.nbytes for t in kept if t.ndim < 2)  # of the random numbers of dropout
    assert counters <= 64
    assert sum(t.nbytes for t in kept) - counters == (
        sum(p.nbytes for p in parts) + out.nbytes + log_sum_exp
    )
    out.backward(torch.empty_like(out))
    assert [p.grad.shape for p in parts] == [p.shape for p in parts]


def config(*kinds: str, window: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(model_type="some", layer_types=list(kinds), sliding_window=window)


@pytest.mark.parametrize("length", [attention.DENSE, attention.DENSE + 1])
def test_masks_go_by_layer_type_and_a_window_as_long_as_the_row_is_none(length):
    documents = torch.zeros(1, length, dtype=torch.int32)
    made = attention.masks(documents, config("conv", "full_attention"))
    assert made["conv"] is None
    assert made.keys() == {"conv", "full_attention"}
    kinds = ("full_attention", "sliding_attention")
    wide = attention.masks(documents, config(*kinds, window=length))
    assert wide["sliding_attention"] is wide["full_attention"]
    narrow = attention.masks(documents, config(*kinds, window=length - 1))
    assert narrow["sliding_attention"] is not narrow["full_attention"]


def test_layers_of_an_unknown_type_are_refused():
    documents = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(InputError, match="chunked_attention"):
        attention.masks(documents, config("full_attention", "chunked_attention"))
    with pytest.raises(InputError, match="sliding_attention"):  # a window, but none is given
        attention.masks(documents, config("sliding_attention"))


def test_attention_without_a_mask_is_refused():
    parts = inputs(numbered(SHORT))[:3]
    with pytest.raises(TypeError, match="masks"):
        attention.packed_attention(None, *parts, None, SCALING)
