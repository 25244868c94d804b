"""Rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.ops.precision import at_least_float32


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate pairs (i, i + D/2) of each head by position * base^(-2i/D), in float32 or better.

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
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequency = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = positions[:, None, :, None].to(dtype) * frequency  # (B, 1, L, D/2)
    cos, sin = angle.cos(), angle.sin()
    first, second = at_least_float32(x).split(half, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
