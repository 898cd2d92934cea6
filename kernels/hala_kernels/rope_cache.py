"""Per-head norm of q and k, rotary embedding, and the write of k and v into the paged cache.

For each token t with position p and each head (half-split layout, D = head dim):

    q, k = rms_norm(q, w_q), rms_norm(k, w_k)                     (when weights are given)
    rot(u)[i]       = u[i] * cos(p f_i) - u[i + D/2] * sin(p f_i)     for i < D/2
    rot(u)[i + D/2] = u[i + D/2] * cos(p f_i) + u[i] * sin(p f_i)
    k_cache[slot[t]], v_cache[slot[t]] = rot(k), v

Floor: read q, k, v and the two table rows of a token, write q, k, v once each.
"""

from __future__ import annotations

import torch

from hala_kernels.norm import rms_norm


def rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `x` [T, H, D] by the angles of `cos` and `sin` [T, D/2] (float32)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def rope_and_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Returns the rotated q [T, Hq, D] and writes k, v [T, Hkv, D] to the cache at `slots` [T].

    `k_cache` and `v_cache` are [pages, page_size, Hkv, D]; a slot is page * page_size + offset.
    `cos` and `sin` are [T, D/2], float32: the rows of the tokens' positions.
    """
    if q_norm_weight is not None:
        q = rms_norm(q, q_norm_weight, eps)
    if k_norm_weight is not None:
        k = rms_norm(k, k_norm_weight, eps)
    q, k = rotate_half_split(q, cos, sin), rotate_half_split(k, cos, sin)
    k_cache.flatten(0, 1).index_copy_(0, slots, k)
    v_cache.flatten(0, 1).index_copy_(0, slots, v)
    return q
