"""The local half of LargeGT: attention among the tokens of a node's sampled neighbourhood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Full


class LocalHalf(nn.Module):
    """One layer of attention over the tokens of a sampled neighbourhood, and a weighted readout.

        t   = W_2 drop(relu(z)),  x = W_l t
        n   = W_r x + drop(MHA(LN(x))),  n = LN(n)
        out = n_0 + sum_j a_j n_j,  a = softmax_j(w . n_j),  j = 1 .. T - 1

    Every head of the attention is as wide as d. There is no feed-forward. No token knows its place, so the order of the
    sampled nodes does not matter.

    The paper's readout scores w . [n_0; n_j]: the part of n_0 is one number for all j, and softmax does not see it. It
    is left out here, and with it a weight that never learns. Its two dropouts in a row are one of the same law here.

    Args:
        dim: d.
        heads: h.
        dropout: after the first layer.
        local_dropout: on what the attention gives, twice.
        hops: with it, a learned vector is added to each token before the norm, which tells the target, the `near` nodes
            behind it and the others apart, and a node's hops + 1 tokens; it starts at 0. None: tokens are known by
            their features alone, as published.
        near: nodes behind the target that are its neighbours.

    Example:
        >>> LocalHalf(dim=8, heads=2, dropout=0.5, local_dropout=0.3)(torch.zeros(4, 6, 8)).shape
        torch.Size([4, 16])

    Source:
        Dwivedi et al. 2023, arXiv 2312.11109, and its authors' code.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, local_dropout: float, *, hops: int | None = None, near: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.near = heads, near
        self.kinds = None if hops is None else nn.Parameter(torch.zeros(3, hops + 1, dim))
        self.drop = nn.Dropout(dropout)
        self.token_out = nn.Linear(dim, dim)
        self.local_in = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * heads * dim)
        self.o_proj = nn.Linear(heads * dim, heads * dim)
        self.residual = nn.Linear(dim, heads * dim)
        self.local_drop = nn.Dropout(1 - (1 - local_dropout) ** 2)
        self.out_norm = nn.LayerNorm(heads * dim)
        self.readout = nn.Linear(heads * dim, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, d) tokens out of the first layer, the target's own first -> (B, h * d)."""
        x = self.drop(z.relu())
        # two layers with nothing between them: their product is smaller than what they would be applied to
        weight = self.local_in.weight @ self.token_out.weight
        x = F.linear(x, weight, self.local_in.weight @ self.token_out.bias + self.local_in.bias)
        if self.kinds is not None:
            x = x + self._kinds_of(x.shape[1] // self.kinds.shape[1])
        q, k, v = self.qkv_proj(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, Full()).transpose(1, 2).flatten(2)
        x = self.out_norm(self.local_drop(self.o_proj(mixed)) + self.residual(x))
        target, others = x[:, 0], x[:, 1:]
        weights = self.readout(others).float().softmax(1).to(x.dtype)  # (B, T - 1, 1)
        y: Tensor = target + (weights.transpose(1, 2) @ others)[:, 0]
        return y

    def _kinds_of(self, nodes: int) -> Tensor:
        """(nodes * (hops + 1), d), node by node."""
        kinds: Tensor = self.kinds  # type: ignore[assignment]  # where it is called
        kind = torch.full((nodes,), 2, device=kinds.device)
        kind[: 1 + self.near] = 1
        kind[0] = 0
        return kinds[kind].flatten(0, 1)
