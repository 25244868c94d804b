"""Attention from one set of features to another: what joins tokens and slots, texts and signals."""

from __future__ import annotations

from torch import Tensor, nn

from tokenmix.mixer import check_divides, check_positive
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Full


class CrossAttention(nn.Module):
    """Each of (B, L, dim) features reads all (B, S, context_dim) features of its row's context.

        y = [softmax(q_h k_h^T / sqrt(e)) v_h]_h W_o,   q of x, k and v of the context

    Args:
        dim: width of the features that read.
        context_dim: width of those that are read; default `dim`.
        heads: number of heads.
        inner_dim: width of all heads together; default the smaller of the two (FIT's rule).
        bias: biases on the projections.

    Raises:
        ValueError: heads that do not divide inner_dim.

    Example:
        >>> import torch
        >>> CrossAttention(16, 8, heads=2)(torch.zeros(1, 5, 16), torch.zeros(1, 3, 8)).shape
        torch.Size([1, 5, 16])

    Source:
        Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        heads: int = 8,
        inner_dim: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        context_dim = dim if context_dim is None else context_dim
        inner_dim = min(dim, context_dim) if inner_dim is None else inner_dim
        for name, value in (("dim", dim), ("context_dim", context_dim), ("inner_dim", inner_dim)):
            check_positive(name, value)
        check_divides("heads", heads, "inner_dim", inner_dim)
        self.heads, self.inner_dim = heads, inner_dim
        self.q_proj = nn.Linear(dim, inner_dim, bias=bias)
        self.k_proj = nn.Linear(context_dim, inner_dim, bias=bias)
        self.v_proj = nn.Linear(context_dim, inner_dim, bias=bias)
        self.o_proj = nn.Linear(inner_dim, dim, bias=bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read.

        Args:
            x: (B, L, dim).
            context: (B, S, context_dim).
            mask: (B, S) bool, True where the context is real; a row without any gives zeros.

        Returns:
            (B, L, dim).
        """
        k, v = self.project(context)
        return self.read(x, k, v, mask)

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, e) of a context, for `read`."""
        return self._split(self.k_proj(context)), self._split(self.v_proj(context))

    def read(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `forward`, with what `project` gave, so that a context that is read many times is projected once."""
        y = attend(self._split(self.q_proj(x)), k, v, Full(), mask=mask)
        y = self.o_proj(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return y if mask is None else y.masked_fill(~mask.any(1)[:, None, None], 0)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)
