"""AdamW on the master weights, its learning rate, and the norm of the gradients."""

import math
from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hala_trainer.config import OptimConfig


def build_optimizer(parameters: dict[str, torch.Tensor], config: OptimConfig) -> torch.optim.AdamW:
    """Decay acts on matrices; norms, biases and the 3-tap filters are left alone."""
    decayed = [p for p in parameters.values() if p.ndim == 2]
    plain = [p for p in parameters.values() if p.ndim != 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        fused=True,
    )


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """The rate of step 1..total: a linear rise, then the schedule, reaching min_lr at the end."""
    warmup = min(config.warmup_steps, max(total - 1, 0))
    if step <= warmup:
        return config.lr * step / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / (total - warmup)
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
    return config.min_lr + (config.lr - config.min_lr) * shape


def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Over all gradients of all processes, a scalar on the device."""
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip(parameters: Iterable[torch.Tensor], limit: float, norm: torch.Tensor) -> None:
    """Scale the gradients down to `limit` where their `norm` is above it."""
    clip_grads_with_norm_(list(parameters), limit, norm)
