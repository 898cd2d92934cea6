"""Bytes of the tensors that operations leave alive, counted without running them.

On the meta device tensors have shapes and storages but no memory, so a block of any size can be run
forward and backward in milliseconds, and what autograd keeps is what it would keep on a GPU.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hala_trainer.model import recompute


class LiveBytes(TorchDispatchMode):
    """Within the block: `now` is the bytes alive that operations made, `peak` the most there were.

    A storage counts once, whatever views it has, and until it is freed (also outside the block).
    `given` tensors were there before and do not count.
    """

    def __init__(self, given: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tensors_in(made):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._known:
                self._known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, key, size)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def tensors_in(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True)
class Footprint:
    """Bytes of one block and one micro-batch."""

    kept: int  # from its forward pass to its backward pass
    working: int  # beside those, at most, during its backward pass; its gradients included


def footprint(
    block: nn.Module, hidden: torch.Tensor, args: tuple, kwargs: dict, mode: str, compiled: bool
) -> Footprint:
    """Of `block(hidden, *args, **kwargs)` that keeps what `mode` says (see recompute).

    With `compiled`, as torch.compile divides the work between the two passes. Its fused kernels
    need less working memory than either count says; the lesser is given.
    """
    eager = _count(block, hidden, args, kwargs, mode, False)
    if not compiled or mode == "full":  # then only the input is kept, however it is run
        return eager
    split = _count(block, hidden, args, kwargs, mode, True)
    return Footprint(split.kept, min(split.working, eager.working))


def _count(
    block: nn.Module, hidden: torch.Tensor, args: tuple, kwargs: dict, mode: str, compiled: bool
) -> Footprint:
    block = copy.deepcopy(block)
    live = LiveBytes([*block.parameters(), *block.buffers(), *tensors_in((args, kwargs))])
    recompute.apply(block, mode)
    run, counting = block.forward, live
    if compiled:
        # Its tracer stands no dispatch mode around it: the two graphs are counted instead.
        torch._dynamo.reset()
        run, counting = torch.compile(run, backend=_split_for(live)), nullcontext()
    with live:
        leaf = torch.empty_like(hidden, requires_grad=True)
        x = leaf * 1  # no leaf, so that what autograd does not save is freed
    live.now -= leaf.untyped_storage().nbytes()
    with counting:
        out = run(x, *args, **kwargs)
    edge = torch.autograd.graph.get_gradient_edge(out)
    gradient = torch.empty_like(out)
    del x, out
    kept = live.peak = live.now
    with live:
        gradient = gradient.clone()
    with counting:
        torch.autograd.backward(edge, gradient)
    return Footprint(kept, live.peak - kept)


def _split_for(live: LiveBytes) -> Callable:
    """A backend of torch.compile that divides a block as Inductor does, and counts in `live` what
    the two graphs leave alive as they run, operation by operation."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    def compiler(graph: torch.fx.GraphModule, _) -> Callable:
        def run(arguments: list):
            with live:
                return torch.fx.Interpreter(graph).boxed_run(arguments)

        run._boxed_call = True  # the list is ours: its tensors may be freed on the way
        return run

    return aot_autograd(
        fw_compiler=compiler,
        bw_compiler=compiler,
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
        decompositions=select_decomp_table(),
    )
