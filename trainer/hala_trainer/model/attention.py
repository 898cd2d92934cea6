"""Attention over packed rows: a token sees itself and what precedes it in its own document.

    seen(q, k) = document q == document k  and  0 <= q - k < window

The soft-cap of Gemma2, softcap * tanh(score / softcap), comes before the mask. The models are those
of `transformers`, built with `attn_implementation=NAME` and called with the dict of `masks` as
their `attention_mask`; what a mask is depends on the device:

CUDA  a BlockMask for FlexAttention, whose kernels skip the blocks of 128 x 128 that no document
      fills. It is built from the first and last document of each block, never from [L, L] values.
CPU   of rows of up to DENSE tokens a bool [R, 1, L, L], for products that torch.compile fuses;
      of longer ones spans of whole documents, since a mask over the row would compute every pair
      of it to throw most of them away. (FlexAttention has no backward there.)
meta  nothing: the sizes of what attention returns and keeps for the backward, for estimates.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hala_trainer.errors import InputError

NAME = "hala_packed"
BLOCK = 128  # tokens a side of a FlexAttention block
DENSE = 128  # tokens of a row up to which a CPU computes all pairs of it, at no loss of time
SPAN = 64  # tokens that short documents are gathered up to on a CPU

_compiled_flex = torch.compile(flex_attention)


def register() -> None:
    """Make NAME known to `transformers`; a second call changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


@dataclass(eq=False)  # not frozen: of such torch.compile guards every field, anew in each batch
class Spans:
    """A batch's rows, one after the other, cut into pieces that attend within themselves."""

    lengths: list[int]  # tokens of each span; their sum is R * L
    masks: list[torch.Tensor | None]  # bool [t, t], True where seen; None where plainly causal


Mask = BlockMask | Spans | torch.Tensor


def masks(documents: torch.Tensor, config) -> dict[str, Mask | None]:
    """The `attention_mask` of a model by `config`, by its layer types.

    `documents` int32 [R, L]: the number of each token's document, which never falls along a row.
    Once a batch, outside what is compiled. Raises InputError for a layer type it does not know.
    """
    build = {"cuda": block_mask, "cpu": cpu_mask, "meta": lambda *_: None}[documents.device.type]
    length = documents.shape[1]
    windows = {"full_attention": length, "conv": None}
    if getattr(config, "sliding_window", None):
        windows["sliding_attention"] = min(config.sliding_window, length)
    kinds = set(config.layer_types)
    if unknown := sorted(kinds - windows.keys()):
        raise InputError(
            f"{config.model_type}: layers of type {unknown[0]} cannot be trained on packed rows; "
            f"those of type {', '.join(sorted(windows))} can"
        )
    built = {w: build(documents, w) for w in {windows[kind] for kind in kinds} if w is not None}
    return {kind: built.get(windows[kind]) for kind in kinds}


def visible(documents: torch.Tensor, window: int) -> torch.Tensor:
    """Bool [..., q, k] for the documents [..., L] of one row or span."""
    places = torch.arange(documents.shape[-1], device=documents.device)
    behind = places[:, None] - places
    same = documents[..., :, None] == documents[..., None, :]
    return same & (behind >= 0) & (behind < window)


def block_mask(documents: torch.Tensor, window: int) -> BlockMask:
    """What `create_block_mask` gives for the same rule, from [R, L / 128] numbers."""
    length = documents.shape[1]
    starts = torch.arange(0, length, BLOCK, device=documents.device)
    ends = (starts + BLOCK - 1).clamp(max=length - 1)
    first, last = documents[:, starts], documents[:, ends]
    # Of a block of queries and one of keys: the least and greatest distance between their tokens.
    nearest = starts[:, None] - ends
    farthest = ends[:, None] - starts
    some = (first[:, :, None] <= last[:, None, :]) & (farthest >= 0) & (nearest < window)
    alone = (first == last) & (ends - starts == BLOCK - 1)
    full = alone[:, :, None] & alone[:, None, :] & (first[:, :, None] == first[:, None, :])
    full &= (nearest > 0) & (farthest < window)

    def seen(row, head, query, key):
        same = documents[row, query] == documents[row, key]
        return same & (query >= key) & (query - key < window)

    partial_blocks, full_blocks = _listed(some & ~full), _listed(full)
    return BlockMask.from_kv_blocks(
        *partial_blocks, *full_blocks, BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(length, length)
    )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bool [R, Q, K] -> int32 counts [R, 1, Q] and indices [R, 1, Q, K], those that hold first."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).unsqueeze(1), order.int().unsqueeze(1)


def cpu_mask(documents: torch.Tensor, window: int) -> Spans | torch.Tensor:
    if documents.shape[1] <= DENSE:
        return visible(documents, window).unsqueeze(1)
    return spans(documents, window)


def spans(documents: torch.Tensor, window: int) -> Spans:
    """Neighbouring documents gathered up to SPAN tokens; a longer one is a span of its own."""
    rows, length = documents.shape
    numbers = (documents + length * torch.arange(rows).unsqueeze(1)).flatten()
    sizes = numbers.unique_consecutive(return_counts=True)[1].tolist()
    lengths, lone = [], []
    for size in sizes:
        if lengths and lengths[-1] + size <= SPAN:
            lengths[-1] += size
            lone[-1] = False
        else:
            lengths.append(size)
            lone.append(True)
    pieces = zip(numbers.split(lengths), lone, strict=True)
    return Spans(
        lengths,
        [None if one and len(own) <= window else visible(own, window) for own, one in pieces],
    )


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask | None,
    scaling: float,
    softcap: float | None = None,
    **_,
) -> tuple[torch.Tensor, None]:
    """query [R, Hq, L, D], key and value [R, Hkv, L, D] -> [R, L, Hq, D] of the same dtype.

    `attention_mask` is what `masks` made for the module's layer type on the same device. The
    softmax is float32.
    """
    if query.device.type == "meta":
        # Keeps query, key, value, result and log-sum-exp, as FlexAttention does.
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, 0.0, True, scale=scaling)[0].transpose(1, 2), None
    if isinstance(attention_mask, BlockMask):
        return _flex(query, key, value, attention_mask, scaling, softcap).transpose(1, 2), None
    if isinstance(attention_mask, Spans):
        return _attend_in_spans(query, key, value, attention_mask, scaling, softcap), None
    if isinstance(attention_mask, torch.Tensor):
        return _attend_densely(query, key, value, attention_mask, scaling, softcap), None
    raise TypeError(f"{NAME} attention needs a mask that `masks` made, not {attention_mask!r:.80}")


def _flex(query, key, value, mask: BlockMask, scaling: float, softcap: float | None):
    def capped(score, row, head, query_index, key_index):
        return softcap * torch.tanh(score / softcap)

    return _compiled_flex(
        query,
        key,
        value,
        score_mod=None if softcap is None else capped,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_densely(query, key, value, mask, scaling: float, softcap: float | None):
    """The query heads of a KV head follow each other, as rows of one product."""
    rows, heads, length, _ = query.shape
    kv_heads = key.shape[1]
    scores = query.unflatten(1, (kv_heads, -1)).flatten(2, 3) @ key.transpose(2, 3)
    scores = scores.view(rows, heads, length, length).float() * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(value.dtype)
    out = weights.view(rows, kv_heads, -1, length) @ value
    return out.view(rows, heads, length, -1).transpose(1, 2)


@torch.compiler.disable  # the lengths differ in every batch: compiled, each batch would be a graph
def _attend_in_spans(query, key, value, spans: Spans, scaling: float, softcap: float | None):
    rows, _, length, _ = query.shape
    # A split's backward is one concatenation; that of a slice is a tensor of zeros each.
    tokens = [x.float().transpose(1, 2).flatten(0, 1) for x in (query, key, value)]  # [R * L, H, D]
    pieces = zip(*(x.split(spans.lengths) for x in tokens), spans.masks, strict=True)
    out = torch.cat([_attend(*piece, scaling, softcap) for piece in pieces])
    return out.unflatten(0, (rows, length)).to(query.dtype)


def _attend(query, key, value, mask, scaling: float, softcap: float | None) -> torch.Tensor:
    """[t, Hq, D] and [t, Hkv, D], float32 -> [t, Hq, D]: of bfloat16 the backward of a CPU's fused
    attention is up to three times as slow."""
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    if softcap is None:
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out[0].transpose(0, 1)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool).tril()
    out = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value
    return out[0].transpose(0, 1)
