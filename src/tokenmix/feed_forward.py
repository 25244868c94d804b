"""Feed-forwards: what a block does to each token by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.mixer import check_positive


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)).

    Args:
        dim: width of the features.
        hidden: inner width; default 8/3 dim, rounded up to a multiple of 8 (equal in size to a GELU one of 4 dim).
        bias: biases on the projections.

    Source:
        Shazeer 2020, arXiv 2002.05202.
    """

    def __init__(self, dim: int, hidden: int | None = None, bias: bool = False) -> None:
        super().__init__()
        hidden = -(-8 * dim // 24) * 8 if hidden is None else hidden
        check_positive("hidden", hidden)
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class GELU(nn.Module):
    """down(gelu(up(x))).

    Args:
        dim: width of the features.
        hidden: inner width; default 4 dim.
        bias: biases on the projections.
    """

    def __init__(self, dim: int, hidden: int | None = None, bias: bool = False) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        check_positive("hidden", hidden)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.down_proj(F.gelu(self.up_proj(x)))


FEED_FORWARDS: dict[str, Callable[..., nn.Module]] = {"swiglu": SwiGLU, "gelu": GELU}
