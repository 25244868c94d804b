"""Places as sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(first: int, length: int, width: int, device: torch.device | None = None) -> Tensor:
    """(length, width) float32: sin and then cos of place * 10000^(-i / half), half = width / 2 rounded up.

    Args:
        first: the first place.
        length: places.
        width: features a place; of an odd number, the last cosine is left out.
        device: of the result.

    Example:
        >>> sinusoids(0, 2, 4)[0].tolist()
        [0.0, 0.0, 1.0, 1.0]

    Source:
        Vaswani et al. 2017, arXiv 1706.03762, section 3.5, sines before cosines.
    """
    half = (width + 1) // 2
    rates = 10_000 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angles = torch.arange(first, first + length, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
