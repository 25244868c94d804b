"""The global half of LargeGT: every node reads the whole graph through a codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenmix.mixers.codebook import NodeCodes
from tokenmix.mixers.vector_quantiser import VectorQuantiser
from tokenmix.models.node_norm import NodeNorm
from tokenmix.ops.attend import attend
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.sources import Slots


class GlobalHalf(nn.Module):
    """Attention of a node over M codes, each weighing as many nodes as it stands for.

        q   = [W_c x; p]                        x a node's features, p its positional encoding
        z   = (q - mean) / deviation            the running ones of the quantiser, whose codes c_m are of this space
        out = sum over m of a_m (v_m - v),   a = softmax_m(W_q z . W_k c_m / sqrt(d) + log n_m)
        v_m = W_v c_m[: code_size],   v = sum over m of n_m v_m / sum over m of n_m

    n_m is the number of nodes whose code is m, so this is attention over all nodes that have a code, each replaced by
    it, less the mean of their values (with which the bias of W_v goes too).

    **Published** (`normalised=False`) are q in the place of z, c_m in the space of q, and no v. There the part of `out`
    that all nodes share moves with the codes in every batch, by more than what tells nodes apart. The batch norm behind
    it takes that away in training, by the mean of the batch, but in evaluation by a running mean that lags behind: in
    `recipes/node_classification` the global half alone is right on 0.24 and 0.43 of the call graph's test nodes
    (two seeds), and on 0.54 to 0.61 (three) as it is here. Both differences are affine: layers around can undo them.

    Training moves the codes towards the q of its batches by moving averages, without gradients, after the codes
    were read (but the first batch makes them before); only nodes of the batch change their codes. A node that was never
    in a training batch has no code, unless `assign` gives it one.

    Args:
        dim: d.
        heads: h.
        code_size: width of the features in a code.
        position_size: width of p; 0 for none.
        codes: M.
        num_nodes: nodes of the graph.
        dropout: after the first layer.
        decay, init, restart: of the codebook, see `VectorQuantiser`; with init "normal", every node starts with a code
            drawn at random, as published.
        normalised: see above; False: as published.

    Example:
        >>> half = GlobalHalf(dim=8, heads=2, code_size=4, position_size=0, codes=5, num_nodes=9, dropout=0.5)
        >>> half(torch.randn(3, 8), torch.tensor([8, 0, 4])).shape, int(half.node_codes.counts().sum())
        (torch.Size([3, 16]), 3)

    Source:
        Dwivedi et al. 2023, arXiv 2312.11109, and its authors' code.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        code_size: int,
        position_size: int,
        codes: int,
        num_nodes: int,
        dropout: float,
        *,
        decay: float = 0.99,
        init: str = "first_batch",
        restart: float | None = 0.01,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.code_size, self.position_size, self.normalised = heads, code_size, position_size, normalised
        self.in_norm = NodeNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.node_out = nn.Linear(dim, dim)
        self.code_in = nn.Linear(dim, code_size)
        self.quantiser = VectorQuantiser(codes, code_size + position_size, decay=decay, init=init, restart=restart)
        self.node_codes = NodeCodes(num_nodes, codes, random_start=init == "normal")
        self.q_proj = nn.Linear(code_size + position_size, heads * dim)
        self.k_proj = nn.Linear(code_size + position_size, heads * dim)
        self.v_proj = nn.Linear(code_size, heads * dim)

    def query(self, z: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, d) nodes out of the first layer, (B, position_size) encodings -> (B, code_size + position_size)."""
        q = self.code_in(self.node_out(self.drop(self.in_norm(z).relu())))
        return q if positions is None else torch.cat([q, positions.to(q.dtype)], dim=1)

    def forward(self, z: Tensor, nodes: Tensor, positions: Tensor | None = None) -> Tensor:
        """Read the codes, and in training move them.

        Args:
            z: (B, d) out of the first layer.
            nodes: (B,) ids.
            positions: (B, position_size).

        Returns:
            (B, h * d).
        """
        q = self.query(z, positions)
        fresh = self.training and self.quantiser.init == "first_batch" and not self.quantiser.initialised
        if fresh:  # there is nothing to read yet
            self._learn(q, nodes)
        y = self.read(q)
        if self.training and not fresh:
            self._learn(q, nodes)
        return y

    def read(self, q: Tensor) -> Tensor:
        """(B, code_size + position_size) -> (B, h * d)."""
        if self.normalised:
            book, mean, deviation = self.quantiser.as_kept()
            q = ((q - mean) / deviation).to(q.dtype)
        else:
            book = self.quantiser.codebook()
        book = book.to(q.dtype)
        keys = self.k_proj(book).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (h, M, d)
        values = self.v_proj(book[:, : self.code_size]).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        queries = self.q_proj(q).unflatten(-1, (self.heads, -1)).transpose(0, 1)[None]  # (1, h, B, d)
        counts = self.node_codes.counts().to(at_least_float32(queries).dtype)
        if self.normalised:
            share = (counts / counts.sum().clamp(min=1)).to(values.dtype)
            values = values - (share @ values)[:, None]
        return attend(queries, None, None, Slots(keys, values, counts.log()))[0].transpose(0, 1).flatten(1)

    @torch.no_grad()
    def assign(self, z: Tensor, nodes: Tensor, positions: Tensor | None = None) -> None:
        """Give nodes the codes nearest to them, and leave the codebook as it is."""
        self.node_codes.set(nodes, self.quantiser.assign(self.query(z, positions)))

    @torch.no_grad()
    def _learn(self, q: Tensor, nodes: Tensor) -> None:
        self.node_codes.set(nodes, self.quantiser.update(q.detach()))
