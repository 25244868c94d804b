"""Feed-forwards: what a block does to each token by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.ops.common import check_positive
from tokenmix.routed.base import Where, per_token


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

    def forward(self, x: Tensor, where: Where = None) -> Tensor:
        """(..., dim) to (..., dim); `where` the tokens are is for routed projections."""
        inner = F.silu(per_token(self.gate_proj, x, where)) * per_token(self.up_proj, x, where)
        return per_token(self.down_proj, inner, where)


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

    def forward(self, x: Tensor, where: Where = None) -> Tensor:
        """(..., dim) to (..., dim); `where` the tokens are is for routed projections."""
        return per_token(self.down_proj, F.gelu(per_token(self.up_proj, x, where)), where)


FEED_FORWARDS: dict[str, Callable[..., nn.Module]] = {"swiglu": SwiGLU, "gelu": GELU}
