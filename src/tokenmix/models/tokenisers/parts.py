"""What both tokenisers are built of: residual convolutions, and a scale that is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.mixers.vector_quantiser import set_buffer

_LEAST_DEVIATION = 1e-3  # of a channel that never changes


class ResidualConv(nn.Module):
    """x + W_2 gelu(conv_3(gelu(x))), along one axis or two; places outside count as 0.

    Args:
        axes: 1 or 2.
        dim: channels.

    Example:
        >>> ResidualConv(1, 4)(torch.randn(2, 4, 7)).shape
        torch.Size([2, 4, 7])
    """

    def __init__(self, axes: int, dim: int) -> None:
        super().__init__()
        conv: Any = nn.Conv1d if axes == 1 else nn.Conv2d
        self.act = nn.GELU()
        self.conv = conv(dim, dim, 3, padding=1)
        self.out_proj = conv(dim, dim, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, dim, ...) to the same; `mask` (B, 1, ...) is True for real places, and padding is read as 0."""
        y = self.act(x)
        if mask is not None:
            y = y.masked_fill(~mask, 0)
        return x + self.out_proj(self.act(self.conv(y)))


class Scale(nn.Module):
    """A mean and a deviation a channel, in float32: (x - mean) / deviation, and back.

    Args:
        channels: of the last axis.

    Example:
        >>> scale = Scale(1)
        >>> scale.fit(torch.tensor([[1.0], [3.0]]))
        >>> scale(torch.tensor([[4.0]])).item(), scale.inverse(torch.tensor([[2.0]])).item()
        (2.0, 4.0)
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(channels, dtype=torch.float32))
        self.register_buffer("deviation", torch.empty(channels, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A mean of 0 and a deviation of 1."""
        set_buffer(self.mean, torch.zeros_like(self.mean))
        set_buffer(self.deviation, torch.ones_like(self.deviation))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Measure (N, channels) rows."""
        wide = rows.double()
        self.mean.copy_(wide.mean(0))
        self.deviation.copy_(wide.std(0, correction=0).clamp(min=_LEAST_DEVIATION))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to the same."""
        return (x - self.mean) / self.deviation

    def inverse(self, x: Tensor) -> Tensor:
        """(..., channels) back."""
        return x * self.deviation + self.mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Casts to half precision leave it alone."""

        def keep_wide(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if moved.dtype.itemsize < 4 else moved

        return super()._apply(keep_wide, recurse)
