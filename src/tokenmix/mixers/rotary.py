"""Rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenmix.ops.precision import at_least_float32


def rotate(
    x: Tensor,
    positions: Tensor,
    base: float = 10000.0,
    *,
    frequencies: Sequence[float] | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Rotate pairs (i, i + D/2) of each head by position * base^(-2i/D), in float32 or better.

    Args:
        x: (B, heads, L, D), D even.
        positions: (B or 1, L) integers.
        base: base of the frequencies.
        frequencies: angles a place instead, for the pairs (i, i + n) of the first 2 n features; the others stay
            as they are.
        scale: factor of the rotated features.

    Returns:
        (B, heads, L, D); scores of rotated queries and keys depend on the difference of positions alone.

    Example:
        >>> x = torch.ones(1, 1, 2, 4)
        >>> torch.equal(rotate(x, torch.tensor([[0, 0]])), x)
        True

    Source:
        Su et al. 2021 (RoFormer), arXiv 2104.09864, equation 34; the half-split pairing is that of Llama's code.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if frequencies is None:
        half = x.shape[-1] // 2
        frequency = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    else:
        half = len(frequencies)
        frequency = torch.tensor(frequencies, device=x.device, dtype=dtype)
    angle = positions[:, None, :, None].to(dtype) * frequency  # (B, 1, L, half)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    first, second, rest = at_least_float32(x).split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)


def check_rope(rope: bool, base: float, frequencies: Sequence[float] | None, head_dim: int) -> None:
    """Refuse options of rotary positions that do not fit a head.

    Raises:
        ValueError: the options, named as the mixers' arguments.
    """
    if rope and frequencies is None and head_dim % 2:
        raise ValueError(f"rope: expected an even head_dim, found head_dim={head_dim}")
    if base <= 0:
        raise ValueError(f"rope_base: expected a positive number, found {base}")
    if frequencies is None:
        return
    if not rope:
        raise ValueError("rope_frequencies: expected None where rope=False, found frequencies")
    if not 1 <= len(frequencies) <= head_dim // 2:
        raise ValueError(
            f"rope_frequencies: expected 1 to {head_dim // 2} (half of head_dim={head_dim}) of them, "
            f"found {len(frequencies)}"
        )
