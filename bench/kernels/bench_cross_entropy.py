"""Output layer and cross-entropy, with the gradients of both inputs: three GEMMs are the floor.

Peak memory is in each result's `peak_bytes`. Liger-Kernel is a peer where it is installed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels import cross_entropy
from hala_kernels.cross_entropy import linear_cross_entropy

try:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
except ImportError:
    LigerFusedLinearCrossEntropyFunction = None

# Name: vocabulary, hidden size, soft-cap.
HEADS = {"LFM2-1.2B": (65536, 2048, None), "Gemma2-9B": (256000, 3584, 30.0)}


def losses(softcap: float | None) -> dict:
    """Contender -> loss of (hidden, weight, targets)."""

    def ours(hidden, weight, targets):
        return linear_cross_entropy(hidden, weight, targets, softcap=softcap)

    def two_steps(hidden, weight, targets):
        logits = F.linear(hidden, weight)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return F.cross_entropy(logits, targets, reduction="sum")

    def liger(hidden, weight, targets):
        return LigerFusedLinearCrossEntropyFunction.apply(
            hidden, weight, targets, None, None, -100, 0.0, 0.0, "sum", softcap
        )[0]

    found = {OURS: ours, "torch": two_steps}
    found["torch.compile"] = torch.compile(two_steps, dynamic=False)
    if LigerFusedLinearCrossEntropyFunction is not None and torch.cuda.is_available():
        found["liger"] = liger
    return found


def problem(
    name: str, tokens: int, vocab: int, width: int, softcap: float | None, gradients: bool = True
) -> Problem:
    def make(device: torch.device) -> tuple:
        hidden = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
        weight = torch.randn(vocab, width, device=device, dtype=torch.bfloat16) * width**-0.5
        targets = torch.arange(tokens, device=device) * 7919 % vocab
        return hidden.requires_grad_(), weight.requires_grad_(), targets

    def call(loss):
        def with_gradients(hidden, weight, targets):
            return torch.autograd.grad(loss(hidden, weight, targets), (hidden, weight))

        def loss_alone(hidden, weight, targets):
            with torch.no_grad():
                return loss(hidden, weight, targets)

        return with_gradients if gradients else loss_alone

    matrices = 2 * width * (tokens + vocab)
    kind = "loss and gradients" if gradients else "loss"
    return Problem(
        name=f"{kind} {name} {tokens}x{vocab}x{width}",
        make=make,
        contenders={key: call(loss) for key, loss in losses(softcap).items()},
        bytes=matrices * (2 if gradients else 1),
        flops=(6 if gradients else 2) * tokens * vocab * width,
    )


FULL = [
    *(problem(name, 8192, *head) for name, head in HEADS.items()),
    problem("LFM2-1.2B", 8192, *HEADS["LFM2-1.2B"], gradients=False),
]
SMOKE = [
    problem("tiny", 3, 300, 32, None),
    problem("tiny soft-cap", 3, 301, 32, 30.0),
    problem("tiny", 3, 300, 32, None, gradients=False),
]


def kernel_alone(shape: dict[str, int]) -> Problem:
    """The kernel on a copy of the logits, for the tuner: it works in place."""
    tokens, vocab = 2048, shape["v"]

    def make(device: torch.device) -> tuple:
        logits = torch.randn(tokens, vocab, device=device, dtype=torch.bfloat16)
        return logits, torch.arange(tokens, device=device) * 7919 % vocab

    def ours(logits, targets):
        gradients = logits.clone()
        per_token = logits.new_empty(len(logits), dtype=torch.float32)
        head = cross_entropy.Head(ignore_index=-100, logit_scale=1.0, softcap=None)
        cross_entropy.row_losses(gradients, targets, per_token, True, head)
        return per_token, gradients

    name = f"cross-entropy kernel {tokens}x{vocab}"
    return Problem(name, make, {OURS: ours}, bytes=8 * tokens * vocab)


def candidates(shape: dict[str, int]) -> list[dict[str, int]]:
    return [
        {"BLOCK": block, "num_warps": warps}
        for block in (2048, 4096, 8192, 16384)
        for warps in (4, 8, 16, 32)
        if 8 <= block // (32 * warps) <= 32
    ]


SPACES = [
    Space("cross_entropy", [{"v": 65536}, {"v": 256000}], candidates, kernel_alone, up_to=("v",))
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_cross_entropy(measure, problem, contender):
    measure(problem, contender)
