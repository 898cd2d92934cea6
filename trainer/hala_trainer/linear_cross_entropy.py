"""The output layer and cross-entropy as one operation, a chunk of positions at a time.

loss = sum_i logsumexp(W h_i) - (W h_i)[t_i]
dloss/dlogits_i = softmax(W h_i) - onehot(t_i)

The gradients are made in the forward pass, while a chunk's logits are at hand, so logits for more
than CHUNK positions never exist and nothing is computed twice.
"""

import torch

CHUNK = 4096  # positions at most; fewer with a large vocabulary: 256 MiB of float32 logits


def chunk_for(vocab_size: int) -> int:
    return max(256, min(CHUNK, 2**26 // vocab_size))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, compute_dtype):
        w = weight.to(compute_dtype)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if needs_grad else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad else None
        step = chunk_for(weight.shape[0])
        for at in range(0, len(hidden), step):
            h, t = hidden[at : at + step], targets[at : at + step]
            logp = torch.log_softmax((h @ w.t()).float(), dim=-1)  # [n, V]
            total += -logp.gather(1, t[:, None]).sum()
            if needs_grad:
                d = logp.exp_()
                d[torch.arange(len(t), device=t.device), t] -= 1
                d = d.to(compute_dtype)
                d_hidden[at : at + step] = d @ w
                d_weight += d.t() @ h
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx, d_total):
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * d_total, (d_weight * d_total).to(ctx.weight_dtype), None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Summed loss. hidden [N, C], weight [V, C] (float32 or hidden's dtype), targets [N]."""
    return _LinearCrossEntropy.apply(hidden, weight, targets, hidden.dtype)
