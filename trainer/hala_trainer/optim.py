"""AdamW on the master weights, its learning rate, and gradient clipping."""

import math

import torch

from hala_trainer.config import OptimConfig


def build_optimizer(masters: dict[str, torch.Tensor], config: OptimConfig) -> torch.optim.AdamW:
    """Decay acts on matrices; norms, biases and the 3-tap filters are left alone."""
    decayed = [p for n, p in masters.items() if p.ndim == 2]
    plain = [p for n, p in masters.items() if p.ndim != 2]
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


def clip_gradients(parameters: list[torch.Tensor], limit: float) -> float:
    """Scale the gradients down to a global norm of `limit` (0 = leave them); returns the norm."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if 0 < limit < norm:
        torch._foreach_mul_(grads, limit / norm)
    return norm.item()
