"""Rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate pairs (i, i + D/2) of each head by position * base^(-2i/D), in float32.

    Args:
        x: (B, heads, L, D), D even.
        positions: (B or 1, L) integers.
        base: base of the frequencies.

    Returns:
        (B, heads, L, D); scores of rotated queries and keys depend on the difference of positions alone.

    Example:
        >>> x = torch.ones(1, 1, 2, 4)
        >>> torch.equal(rotate(x, torch.tensor([[0, 0]])), x)
        True

    Source:
        Su et al. 2021 (RoFormer), arXiv 2104.09864, equation 34; the half-split pairing is that of Llama's code.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions[:, None, :, None].to(torch.float32) * frequency  # (B, 1, L, D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
