"""Causal attention, full or in a sliding window, and bidirectional attention.

Shapes: B samples, H heads, T queries, S ≥ T keys of which the last T belong to the queries, D width per head.
"""

# ruff: noqa: N803, N806 - names carry shapes
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses


def attend(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, window: int) -> Tensor:
    """Attend from each position to itself and the earlier ones: the last `window`, or all if it is 0."""
    if window == 0 or q_BHTD.shape[2] <= window:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
    return _windowed(q_BHTD, k_BHTD, v_BHTD, window)


def attend_cached(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int) -> Tensor:
    """Attend as `attend` does, for the newest T of S positions."""
    T, S = q_BHTD.shape[2], k_BHSD.shape[2]
    if T == 1:  # no mask needed: the newest token sees its whole window
        newest = slice(-window if window else None, None)
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD[:, :, newest], v_BHSD[:, :, newest])
    seen = torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril(S - T)
    if window:
        seen = seen.triu(S - T - window + 1)
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=seen)


def attend_both_ways(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, keys_BT: Tensor) -> Tensor:
    """Attend from each position to all positions where `keys_BT` is True; every sample needs at least one."""
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=keys_BT[:, None, None])


def _windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend in a sliding window, at a cost of 2·window per position (Beltagy et al. 2020).

    Chunks of `window` queries see their own chunk and the previous one, under a band mask.
    """
    B, H, T, D = q.shape
    missing = -T % window
    chunks = (T + missing) // window

    def cut(x: Tensor) -> Tensor:  # → B, chunks, H, window, D
        return F.pad(x, (0, 0, 0, missing)).view(B, H, chunks, window, D).transpose(1, 2)

    def with_chunk_before(x: Tensor) -> Tensor:
        chunked = cut(x)
        return torch.cat((F.pad(chunked, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], chunked), dim=3)

    query = torch.arange(window, device=q.device)[:, None]
    key = torch.arange(-window, window, device=q.device)[None]
    band = (key <= query) & (key > query - window)
    has_previous = torch.ones(chunks, 1, 1, dtype=torch.bool, device=q.device)
    has_previous[0] = False  # the first chunk has no previous one
    seen = (
        (band & (has_previous | (key >= 0)))
        .expand(B, chunks, window, 2 * window)
        .reshape(-1, 1, window, 2 * window)
    )
    y = F.scaled_dot_product_attention(
        cut(q).flatten(0, 1),
        with_chunk_before(k).flatten(0, 1),
        with_chunk_before(v).flatten(0, 1),
        attn_mask=seen,
    )
    return y.reshape(B, chunks, H, window, D).transpose(1, 2).reshape(B, H, -1, D)[:, :, :T]
