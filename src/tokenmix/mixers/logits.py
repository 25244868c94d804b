"""The largest attention logit: what LS-attention's paper claims its windows keep small."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.state import chunk_places

_BLOCK = 256


@torch.no_grad()
def max_logits(q: Tensor, k: Tensor, windows: list[int | None], causal: bool, layout: Layout) -> Tensor:
    """Max |q_i . k_j| / sqrt(e) of each head over the pairs that it may read.

    Args:
        q: (B, heads, L, e) queries.
        k: (B, kv_heads, L, e) keys.
        windows: the window of each head, None for all tokens.
        causal: whether heads read only the past.
        layout: aligned; its padding and other documents are left out.

    Returns:
        (heads,) float32.

    Source:
        Hajra 2025, arXiv 2505.15548: the quantity whose growth is blamed for divergence.
    """
    heads, length, width = q.shape[1:]
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    window = torch.tensor([length if w is None else w for w in windows], device=q.device)[:, None, None]
    place = chunk_places(length, layout, None, q.device)
    largest = torch.zeros(heads, device=q.device)
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        back = place[:, start:stop, None] - place[:, None, :]  # (B, block, L)
        back = back[:, None]
        allowed = (back < window) & ((back >= 0) if causal else (back > -window))
        if layout.segments is not None:
            allowed = allowed & (layout.segments[:, None, start:stop, None] == layout.segments[:, None, None, :])
        if layout.mask is not None:
            allowed = allowed & layout.mask[:, None, start:stop, None] & layout.mask[:, None, None, :]
        scores = (q[:, :, start:stop].float() @ k.float().transpose(-1, -2)).abs() / width**0.5
        largest = torch.maximum(largest, scores.masked_fill(~allowed, 0).amax(dim=(0, 2, 3)))
    return largest
