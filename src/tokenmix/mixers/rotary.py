"""Rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    return turn(x, rotary_table(positions, x, base, frequencies, scale))


class RotaryTable(NamedTuple):
    """What `turn` multiplies by: the cosines of the angles twice over, and their sines with the signs of the pairs."""

    cos: Tensor  # (B or 1, 1, L, 2 n)
    sin: Tensor  # (B or 1, 1, L, 2 n), negative for the first n


def rotary_table(
    positions: Tensor, like: Tensor, base: float, frequencies: Sequence[float] | None, scale: float
) -> RotaryTable:
    """The table of `rotate`, for all heads and layers that rotate the same positions; like is (B, heads, L, D)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if frequencies is None:
        half = like.shape[-1] // 2
        frequency = base ** (-torch.arange(half, device=like.device, dtype=dtype) / half)
    else:
        frequency = torch.tensor(frequencies, device=like.device, dtype=dtype)
    angle = positions[:, None, :, None].to(dtype) * frequency  # (B, 1, L, n)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return RotaryTable(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def turn(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate the first 2 n features of (B, heads, L, D) by a table."""
    width = table.cos.shape[-1]
    wide = at_least_float32(x)
    turning = wide if width == x.shape[-1] else wide[..., :width]
    turned = turning * table.cos + turning.roll(width // 2, -1) * table.sin  # rounded as Llama's code rounds
    if width < x.shape[-1]:
        turned = torch.cat([turned, wide[..., width:]], dim=-1)
    return turned.to(x.dtype)


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
