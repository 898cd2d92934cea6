"""Activation recomputation: what a block keeps between its forward and its backward.

none       all that its backward reads
selective  its input and the results of matrix products and attention; norms, activations, RoPE
           and the short convolution, cheap to repeat, are computed again; so is FlexAttention
           unless the block is compiled, since alone it is a graph that nothing looks into
full       its input; the whole block is computed again, about a third more work a step
"""

import logging
from functools import partial

import torch
from torch import nn
from torch._higher_order_ops.flex_attention import flex_attention
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

MODES = ("none", "selective", "full")

_aten = torch.ops.aten
KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        flex_attention,
    }
)


def apply(block: nn.Module, mode: str) -> None:
    """Make `block.forward` keep only what `mode` says. Before fully_shard and torch.compile."""
    if mode == "none":
        return
    contexts = {}
    if mode == "selective":
        # Compiled, it warns of what it does not do, and that is not used here.
        logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
        contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    elif mode != "full":
        raise ValueError(f"recompute is one of {', '.join(MODES)}, not {mode}")
    block.forward = partial(
        checkpoint,
        block.forward,
        use_reentrant=False,
        # Nothing in a block draws random numbers.
        preserve_rng_state=False,
        determinism_check="none",
        **contexts,
    )


def _policy(context, operation, *args, **kwargs) -> CheckpointPolicy:
    keep = operation in KEPT
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
