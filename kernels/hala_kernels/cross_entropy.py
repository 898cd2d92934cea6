"""The output layer and its cross-entropy as one operation, for training over large vocabularies.

    z = logit_scale * W h;   y = c tanh(z / c) with a soft-cap c, else z
    loss = log(sum_v exp(y_v)) - y_t;   dloss/dz = (softmax(y) - onehot(t)) * dy/dz

A chunk of tokens at a time: its logits by a library GEMM, then one kernel that gives each token's
loss and turns the row of logits into its gradient in place, then two GEMMs, into the gradients of
`hidden` and `weight`. Gradients are made in the forward pass, while the logits are at hand, so
nothing is computed twice and logits for more than a chunk never exist.

Floor, for T tokens, V words, H columns: three GEMMs, 6TVH FLOPs. At T = 8192 on an H100 (790
TFLOP/s, 3.0 TB/s) that is 8.4 ms for V = 65536, H = 2048 and 57 ms for V = 256000, H = 3584. On top
come the kernel's two reads and one write of the logits, 6TV bytes (1.1 and 4.2 ms; the second read
partly from the L2), and at most 8VH bytes for each chunk after the first, to add its share to the
float32 gradient of `weight` (0.4 and 2.4 ms a chunk, under the GEMM's own 1.4 and 4.8 ms). That
last term is why chunks are large: at 256 tokens it alone would take 1.4 times the three GEMMs.

Why not recompute the logits blockwise in both passes, as Cut Cross-Entropy does (Wijmans et al.,
arXiv 2411.09009): a fourth GEMM (8TVH FLOPs, a third more), in Triton and not in cuBLAS, and sums
over blocks that need atomics (no fixed order) or a fifth GEMM. It saves the chunk of logits, at
most `LOGITS_BYTES`, beside a float32 gradient of `weight` of 0.5 and 3.7 GB.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hala_kernels.backend import device_of, launch, use_triton
from hala_kernels.triton_lang import tl, triton
from hala_kernels.tuning import lookup

LOGITS_BYTES = {"cuda": 2**30, "cpu": 2**28}
"""Bytes of logits held at once, by the type of device. With 1 GiB a chunk has at least 2048 tokens
of a vocabulary of 256k; a CPU's GEMMs are as fast with fewer."""

MOST_TOKENS = 4096
"""In a chunk; more would save little: the sums into d_weight move VH * 8 bytes a chunk."""

LEAST_TOKENS = 256
"""In a chunk, however large the vocabulary: fewer leave the GEMMs waiting for the weight."""

ROW_ALIGNMENT = 16  # columns: rows of logits start where 16-byte loads and Triton want them


class Head(NamedTuple):
    """How logits become losses: the keywords of `linear_cross_entropy`."""

    ignore_index: int
    logit_scale: float
    softcap: float | None


@triton.jit
def _tanh(x):
    """tanh and its derivative, without overflow and, where they vanish, without cancellation."""
    e = tl.exp(tl.abs(x) * -2.0)
    inverse = 1.0 / (1.0 + e)
    share = (1.0 - e) * inverse
    return tl.where(x < 0, -share, share), 4.0 * e * inverse * inverse


@triton.jit
def _cross_entropy_kernel(
    logits_ptr,
    target_ptr,
    loss_ptr,
    V,
    stride,
    target_stride,
    ignore_index,
    logit_scale,
    softcap,
    CAPPED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row a program: its loss, and with GRADIENT its gradient in place of its logits.

    `stride` is a multiple of 16 and bounds the loads, which keeps them 16 bytes wide whatever V is.
    Columns from V on get gradient 0: some GEMMs multiply what lies between rows by 0, so no NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits_ptr + row * stride
    target = tl.load(target_ptr + row * target_stride)
    columns = tl.arange(0, BLOCK)
    if target == ignore_index:
        tl.store(loss_ptr + row, 0.0)
        if GRADIENT:
            zero = tl.zeros((BLOCK,), logits_ptr.dtype.element_ty)
            for first in range(0, V, BLOCK):
                here = first + columns
                tl.store(start + here, zero, mask=here < stride)
    else:
        # A target outside the vocabulary makes the loss NaN: a GPU cannot raise.
        known = (target >= 0) & (target < V)
        y_target = tl.load(start + target, mask=known, other=float("nan")).to(tl.float32)
        y_target = y_target * logit_scale
        if CAPPED:
            y_target = _tanh(y_target / softcap)[0] * softcap
        largest = float("-inf")
        total = 0.0
        for first in range(0, V, BLOCK):
            here = first + columns
            y = tl.load(start + here, mask=here < stride, other=0.0).to(tl.float32) * logit_scale
            if CAPPED:
                y = _tanh(y / softcap)[0] * softcap
            y = tl.where(here < V, y, float("-inf"))
            before = largest
            largest = tl.maximum(before, tl.max(y))
            total = total * tl.exp(before - largest) + tl.sum(tl.exp(y - largest))
        tl.store(loss_ptr + row, tl.log(total) + (largest - y_target))
        if GRADIENT:
            inverse = 1.0 / total
            word = target.to(tl.int32)
            # Backwards, since the end of the row is what the caches still hold.
            last = (V - 1) // BLOCK * BLOCK
            for back in range(0, V, BLOCK):
                here = last - back + columns
                y = tl.load(start + here, mask=here < stride, other=0.0).to(tl.float32)
                y = y * logit_scale
                slope = logit_scale
                if CAPPED:
                    share, slope = _tanh(y / softcap)
                    y = share * softcap
                    slope = slope * logit_scale
                gradient = tl.exp(y - largest) * inverse - tl.where(here == word, 1.0, 0.0)
                gradient = tl.where(here < V, gradient * slope, 0.0)
                gradient = gradient.to(logits_ptr.dtype.element_ty)
                tl.store(start + here, gradient, mask=here < stride)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Sum of the tokens' cross-entropies, a float32 scalar; differentiable once in the first two.

    `hidden` [T, H] bf16 or float32; `weight` [V, H] of its dtype, or float32 (cast for the GEMMs,
    its gradient float32); `targets` [T] int64. A target equal to `ignore_index` gives no loss and
    no gradient. Memory beside the gradients: `LOGITS_BYTES` of logits, a float32 gradient of each
    input that needs one, and for a mixed pair the cast weight. Without gradients to make (eval)
    only the logits are computed.

    Raises ValueError for shapes, dtypes or a soft-cap that do not fit, and on a CPU IndexError for
    a target outside the vocabulary. On a GPU, which would have to wait to know, such a target makes
    the loss NaN.
    """
    _check(hidden, weight, targets, softcap)
    head = Head(ignore_index, logit_scale, softcap)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, head)
    return _by_chunks(hidden, weight, targets, head, False, False)[0]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, head):
        total, *gradients = _by_chunks(hidden, weight, targets, head, *ctx.needs_input_grad[:2])
        ctx.save_for_backward(*gradients)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, d_total):
        if torch.is_grad_enabled():
            # create_graph: without this a second differentiation would see constants, not fail.
            d_total = d_total.detach().requires_grad_()
        return _LinearCrossEntropy.scale(ctx, d_total)

    @staticmethod
    @once_differentiable
    def scale(ctx, d_total):
        scaled = [
            None
            if sums is None
            else torch.mul(sums, d_total, out=sums.new_empty(sums.shape, dtype=dtype))
            for sums, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


def _by_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    for_hidden: bool,
    for_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The loss, and its float32 gradients where asked for."""
    (tokens, width), vocab = hidden.shape, weight.shape[0]
    weight = weight.to(hidden.dtype)
    losses = hidden.new_empty(tokens, dtype=torch.float32)
    d_hidden = hidden.new_empty(tokens, width, dtype=torch.float32) if for_hidden else None
    d_weight = None
    if for_weight:
        make = torch.empty if tokens else torch.zeros
        d_weight = make(vocab, width, dtype=torch.float32, device=hidden.device)
    step = chunk_size(tokens, vocab, hidden)
    columns = -(-vocab // ROW_ALIGNMENT) * ROW_ALIGNMENT if use_triton(hidden) else vocab
    buffer = hidden.new_empty(min(step, tokens), columns)
    for at in range(0, tokens, step):
        rows = slice(at, at + step)
        h = hidden[rows]
        logits = torch.mm(h, weight.t(), out=buffer[: len(h), :vocab])
        row_losses(logits, targets[rows], losses[rows], for_hidden or for_weight, head)
        if d_hidden is not None:
            _multiply(logits, weight, d_hidden[rows], add=False)
        if d_weight is not None:
            _multiply(logits.t(), h, d_weight, add=at > 0)
    return losses.sum(), d_hidden, d_weight


def chunk_size(tokens: int, vocab: int, like: torch.Tensor) -> int:
    """Tokens whose logits, of the dtype and device of `like`, are held at once: equal chunks, in
    whole GEMM tiles of 128."""
    budget = LOGITS_BYTES["cuda" if like.is_cuda else "cpu"]
    fitting = min(MOST_TOKENS, budget // (max(vocab, 1) * like.element_size()))
    most = max(LEAST_TOKENS, fitting // 128 * 128)
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // (128 * chunks))) * 128


def _multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, add: bool) -> None:
    """out = a b, or out += a b with `add`; out is float32.

    Float32 leaves cuBLAS's accumulators unrounded: a sum over 256k words split among blocks would
    otherwise be added up in bf16, and so would the chunks.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=int(add), out=out)
    elif out.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=int(add), out=out)
    elif add:
        out += a @ b
    else:
        out.copy_(a @ b)


def row_losses(
    logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor, gradient: bool, head: Head
) -> None:
    """Write `losses` [n]; with `gradient` make `logits` [n, V], W h, their gradients."""
    if not use_triton(logits):
        return _row_losses_reference(logits, targets, losses, gradient, head)
    rows, vocab = logits.shape
    config = lookup("cross_entropy", device_of(logits), v=vocab)
    launch(
        _cross_entropy_kernel,
        (rows,),
        logits,
        targets,
        losses,
        vocab,
        logits.stride(0),
        targets.stride(0),
        head.ignore_index,
        float(head.logit_scale),
        float(head.softcap or 1.0),
        head.softcap is not None,
        gradient,
        **config,
    )


REFERENCE_LOGITS = 2**22  # made float32 at once: 16 MiB, which stay in a CPU's cache


def _row_losses_reference(
    logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor, gradient: bool, head: Head
) -> None:
    step = max(1, REFERENCE_LOGITS // logits.shape[1])
    for z, t, loss in zip(logits.split(step), targets.split(step), losses.split(step), strict=True):
        y = z.float()
        if head.logit_scale != 1:
            y = y * head.logit_scale
        if head.softcap is not None:
            capped = y / head.softcap
            y = torch.tanh(capped) * head.softcap
        y = torch.log_softmax(y, -1)
        loss.copy_(F.nll_loss(y, t, ignore_index=head.ignore_index, reduction="none"))
        if gradient:
            d = y.exp_()
            ignored = t == head.ignore_index
            d[torch.arange(len(t), device=t.device), t.masked_fill(ignored, 0)] -= 1
            if head.softcap is not None:
                d *= torch.cosh(capped).pow_(-2)
            if head.logit_scale != 1:
                d *= head.logit_scale
            z.copy_(d.masked_fill_(ignored[:, None], 0))


def _check(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None
) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden [T, H] and weight [V, H] do not fit: {[*hidden.shape]} and {[*weight.shape]}"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets are int64 [{len(hidden)}], not {targets.dtype} {[*targets.shape]}"
        )
    if hidden.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"hidden is bfloat16 or float32, not {hidden.dtype}")
    if weight.dtype not in (hidden.dtype, torch.float32):
        raise ValueError(f"weight is {hidden.dtype} as hidden or float32, not {weight.dtype}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is positive or None, not {softcap}")
