"""Head norm, rotary embedding and cache write: q, k, v read and written once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from bench.kernels.problem import OURS, Problem, Space, contests
from hala_kernels.quantize import FP8
from hala_kernels.rope_cache import rope_and_cache, rotate_half_split, rotate_interleaved

PAGE_SIZE = 16


@dataclass(frozen=True)
class Heads:
    q: int
    kv: int
    dim: int
    norm: bool = False
    interleaved: bool = False


MODELS = {
    "LFM2-1.2B": Heads(32, 8, 64, norm=True),
    "Cohere2-111B": Heads(96, 8, 128, interleaved=True),
    "Gemma2-9B": Heads(16, 8, 256),
}


def problem(model: str, heads: Heads, tokens: int, fp8: bool = False) -> Problem:
    width = (heads.q + 2 * heads.kv) * heads.dim
    pages = -(-tokens // PAGE_SIZE)
    rotate = rotate_interleaved if heads.interleaved else rotate_half_split

    def make(device: torch.device) -> tuple:
        qkv = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
        angles = torch.randn(tokens, heads.dim // 2, device=device)
        cache = (pages, PAGE_SIZE, heads.kv, heads.dim)
        dtype = FP8 if fp8 else torch.bfloat16
        caches = [torch.zeros(cache, device=device).to(dtype) for _ in "kv"]
        token = torch.arange(tokens, device=device)
        slots = (pages - 1 - token // PAGE_SIZE) * PAGE_SIZE + token % PAGE_SIZE
        weights, scales = [None, None], [None, None]
        if heads.norm:
            weights = [torch.rand(heads.dim, device=device).bfloat16() for _ in "qk"]
        if fp8:
            scales = [torch.full((heads.kv,), 0.02, device=device) for _ in "kv"]
        return qkv, angles.cos(), angles.sin(), *caches, slots, *weights, *scales

    def parts(qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return qkv.view(tokens, -1, heads.dim).split((heads.q, heads.kv, heads.kv), dim=1)

    def ours(qkv, cos, sin, k_cache, v_cache, slots, q_weight, k_weight, k_scale, v_scale):
        q, k, v = parts(qkv)
        return rope_and_cache(
            q, k, v, cos, sin, k_cache, v_cache, slots, q_weight, k_weight,
            interleaved=heads.interleaved, k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip

    def eager(qkv, cos, sin, k_cache, v_cache, slots, q_weight, k_weight, *_):
        q, k, v = parts(qkv)
        if heads.norm:
            q, k = (F.rms_norm(u, u.shape[-1:], w) for u, w in ((q, q_weight), (k, k_weight)))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k_cache.flatten(0, 1).index_copy_(0, slots, k)
        v_cache.flatten(0, 1).index_copy_(0, slots, v)
        return q

    peers = {} if fp8 else {"torch": eager, "torch.compile": torch.compile(eager, dynamic=False)}
    written = 2 * heads.q + (2 if fp8 else 4) * heads.kv
    table = 8 * heads.dim // 2
    return Problem(
        name=f"rope_cache {'fp8' if fp8 else 'bf16'} {model} {tokens}",
        make=make,
        contenders={OURS: ours, **peers},
        bytes=tokens * (2 * width + written * heads.dim + table + 8),
    )


FULL = [
    problem(model, heads, tokens, fp8)
    for fp8 in (False, True)
    for model, heads in MODELS.items()
    for tokens in ((8192, 256) if not fp8 else (8192,))
]
SMOKE = [
    problem("tiny", Heads(2, 1, 64, norm=True), 3),
    problem("tiny", Heads(2, 1, 64, interleaved=True), 3, fp8=True),
]


def candidates(shape: dict[str, int]) -> list[dict]:
    """8 to 32 columns a thread."""
    return [
        {"ROWS": 32 * warps * columns // shape["d"], "num_warps": warps}
        for warps in (1, 2, 4, 8)
        for columns in (8, 16, 32)
        if 32 * warps * columns >= shape["d"]
    ]


SPACES = [
    Space(
        table="rope_cache",
        shapes=[{"d": heads.dim} for heads in MODELS.values()],
        candidates=candidates,
        problem=lambda shape: next(
            problem(m, h, 8192) for m, h in MODELS.items() if h.dim == shape["d"]
        ),
        up_to=("d",),
    )
]


@pytest.mark.parametrize(("problem", "contender"), contests(FULL, SMOKE))
def test_rope_and_cache(measure, problem, contender):
    measure(problem, contender)
