"""How much memory of one GPU a recipe takes, estimated from config.json alone.

Sizes of weights and of what the optimizer holds are exact. Activations are counted by running one
block of each kind on the meta device (see live_bytes). What comes and goes is added up for each of
the moments that can be the fullest: the loss, each block's backward pass, the embedding's gradient.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from hala_kernels.backend import forced
from hala_kernels.cross_entropy import ROW_ALIGNMENT, chunk_size
from hala_trainer.config import Recipe
from hala_trainer.flops import layer_types
from hala_trainer.model.packed import Inputs, PackedModel
from hala_trainer.planning.live_bytes import Footprint, LiveBytes, footprint

RESERVE = 2_000_000_000
"""Bytes for what is no tensor of ours: the CUDA context with its kernels (about 0.5 GB), NCCL's
buffers (0.5 to 1 GB), workspaces of cuBLAS, and gaps in the allocator's blocks."""

FLOAT32 = 4

# What the parts of an estimate are called.
STATE = "master weights and optimizer moments, float32"
GRADIENTS = "gradients, float32"
BLOCKS = "weights of blocks, gathered"
ROOT = "embedding, norm and output layer, gathered, with gradients, float32"
KEPT = "activations kept for the backward pass"
LOSS = "logits and the loss"
WORKING = "backward pass of a block"
SUMMED = "a block's gradients on the way to their owners, float32"
OTHER = "CUDA, NCCL, allocator"


@dataclass(frozen=True)
class Estimate:
    """The fullest moment of a step on one GPU."""

    moment: str
    parts: dict[str, int]  # bytes

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Group:
    """Numbers (not bytes) in the parameters that are gathered together: a block's, or the root's,
    which are in no block. Rows that do not divide by the processes are filled up."""

    own: int  # of one process
    whole: int

    @staticmethod
    def of(parameters: Iterable[torch.Tensor], world: int) -> "Group":
        shapes = [p.shape for p in parameters]
        own = sum(math.ceil(rows / world) * math.prod(rest) for rows, *rest in shapes)
        return Group(own, own * world)


def estimate(model: PackedModel, recipe: Recipe, world: int) -> Estimate:
    """`model` is on the meta device and float32, as `loading.build` makes it."""
    return max(_moments(model, recipe, world), key=lambda moment: moment.total)


def _moments(model: PackedModel, recipe: Recipe, world: int) -> Iterator[Estimate]:
    element = model.compute.itemsize
    blocks, root = groups(model, world)
    own = sum(block.own for block in blocks) + root.own
    embedding = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight
    outside, footprints = activations(model, recipe)
    kept = [f.kept for f in footprints]
    accumulated = recipe.accumulate(world) > 1
    resharded = recipe.train.reshards(world)
    last = len(blocks) - 1

    def moment(name: str, done: int, gathered: list[Group], parts: dict[str, int]) -> Estimate:
        """`done` numbers have their gradient in this forward pass; all have from the one before."""
        always = {
            STATE: 3 * FLOAT32 * own,
            GRADIENTS: FLOAT32 * (own if accumulated else done),
            BLOCKS: element * sum(group.whole for group in gathered),
        }
        return Estimate(name, always | parts | {OTHER: RESERVE})

    yield moment(
        "the loss",
        0,
        blocks[-1:] if resharded else blocks,
        {
            ROOT: FLOAT32 * (root.whole + head.numel()),
            KEPT: sum(kept) + outside,
            LOSS: _loss_bytes(model, recipe),
        },
    )
    for i in range(last, -1, -1):
        yield moment(
            f"the backward pass of block {i + 1} of {len(blocks)}",
            sum(block.own for block in blocks[i + 1 :]),
            # Meanwhile the weights of the block before are fetched.
            blocks[max(i - 1, 0) : i + 1]
            if resharded
            else blocks[: len(blocks) if accumulated else i + 1],
            {
                ROOT: FLOAT32 * (root.whole + head.numel()),
                KEPT: sum(kept[: i + 1]) + outside,
                WORKING: footprints[i].working,
                SUMMED: FLOAT32 * blocks[i + 1].whole if i < last else 0,
            },
        )
    yield moment(
        "the gradient of the embedding",
        sum(block.own for block in blocks),
        blocks if accumulated and not resharded else [],
        {
            ROOT: FLOAT32 * (root.whole + head.numel() + embedding),
            SUMMED: FLOAT32 * blocks[0].whole,
        },
    )


def groups(model: PackedModel, world: int) -> tuple[list[Group], Group]:
    """The blocks, and the root."""
    inside = {id(p) for p in model.blocks.parameters()}
    root = (p for p in model.parameters() if id(p) not in inside)
    return [Group.of(block.parameters(), world) for block in model.blocks], Group.of(root, world)


def _loss_bytes(model: PackedModel, recipe: Recipe) -> int:
    """With every token supervised: a chunk of logits, the weight cast for its products, the hidden
    states and their float32 gradient (see hala_kernels.cross_entropy)."""
    tokens, element = recipe.train.micro_batch * recipe.data.seq_len, model.compute.itemsize
    vocab, width = model.get_output_embeddings().weight.shape
    on_gpu = SimpleNamespace(is_cuda=True, element_size=lambda: element)
    columns = math.ceil(vocab / ROW_ALIGNMENT) * ROW_ALIGNMENT
    logits = min(chunk_size(tokens, vocab, on_gpu), tokens) * columns * element
    cast = vocab * width * element if element < FLOAT32 else 0
    return logits + cast + tokens * width * (element + FLOAT32)


def activations(model: PackedModel, recipe: Recipe) -> tuple[int, list[Footprint]]:
    """Bytes that one micro-batch keeps outside the blocks, and what each block takes."""
    t = recipe.train
    model = copy.deepcopy(model).to("meta")  # its buffers too
    with forced("triton"):  # a GPU's operators, of which only the shapes are asked
        outside, calls = _outside(model, t.micro_batch, recipe.data.seq_len)
        found: dict[str, Footprint] = {}
        kinds = layer_types(model.config)
        for kind, block, call in zip(kinds, model.blocks, calls, strict=True):
            if kind not in found:
                block.to(model.compute)
                found[kind] = footprint(block, *call, mode=t.recompute, compiled=t.compile)
    return outside, [found[kind] for kind in kinds]


def _outside(model: PackedModel, rows: int, length: int) -> tuple[int, list[tuple]]:
    """All but the blocks, run: the bytes kept, and each block's (hidden states, args, kwargs)."""
    calls = []

    def record(hidden, *args, **kwargs):
        calls.append((hidden.detach(), args, kwargs))
        return hidden

    for block in model.blocks:
        block.forward = record
    ids = torch.empty(rows, length, dtype=torch.int64, device="meta")
    documents = torch.empty(rows, length, dtype=torch.int32, device="meta")
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live:
        predicting = model.predicting(Inputs(ids, ids, documents, ids.flatten(), ids.flatten()))
        edge = torch.autograd.graph.get_gradient_edge(predicting)
        del predicting
    for block in model.blocks:
        del block.forward
    kept = live.now
    del edge
    return kept, calls
