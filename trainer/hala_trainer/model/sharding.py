"""FSDP2 over a model, block by block (Zhao et al., arXiv 2304.11277; torch.distributed.fsdp).

Each process owns a slice of every float32 master weight, its gradient and its moments. A block's
weights are gathered in the compute dtype just before they are used, and its gradients are summed
over the processes in float32. The embedding, the final norm and the output layer form the root
group, which stays float32: the gradient of a frequent token sums thousands of terms, which bfloat16
would swallow.
"""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from hala_trainer.config import TrainConfig
from hala_trainer.model import recompute
from hala_trainer.model.packed import PackedModel


def shard(model: PackedModel, mesh: DeviceMesh, config: TrainConfig) -> None:
    """In place. What a block keeps for its backward pass and whether it is compiled is decided here
    too, since FSDP's own hooks must stay outside both."""
    blocks = MixedPrecisionPolicy(param_dtype=model.compute, reduce_dtype=torch.float32)
    root = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    reshard = config.reshards(mesh.size())
    for block in model.blocks:
        recompute.apply(block, config.recompute)
        if config.compile:
            block.forward = torch.compile(block.forward)
        fully_shard(block, mesh=mesh, mp_policy=blocks, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, mp_policy=root, reshard_after_forward=False)
