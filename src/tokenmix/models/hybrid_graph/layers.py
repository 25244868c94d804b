"""Graph convolutions in plain torch: GCN, GraphSAGE and GAT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.ops.edges import attend_edges, edge_softmax
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.sparse import SparseMatrix, csr


@dataclass(frozen=True, eq=False)
class GraphEdges:
    """The edges of a graph as the layers read them, made once a call.

    Args:
        normalised: D^-1/2 A D^-1/2 (N, N), receivers by senders, with one self loop a node.
        mean: A / degree (N, N), without self loops of its own; a node that nobody sends to has a row of zeros.
        looped: (2, E) edges with exactly one self loop a node, sender over receiver.
    """

    normalised: SparseMatrix
    mean: SparseMatrix
    looped: Tensor

    @classmethod
    def of(cls, edges: Tensor, weight: Tensor | None, num_nodes: int, dtype: torch.dtype) -> GraphEdges:
        """From edges and their weights.

        Args:
            edges: (2, E) integers, sender over receiver; those listed twice count twice.
            weight: (E,) floats of 0 or more, which the normalised matrix alone heeds; default 1.
            num_nodes: N.
            dtype: of the matrices.

        Example:
            >>> found = GraphEdges.of(torch.tensor([[0], [1]]), None, 2, torch.float32)
            >>> found.mean.matrix.to_dense().tolist()
            [[0.0, 0.0], [1.0, 0.0]]
            >>> found.looped.tolist()
            [[0, 0, 1], [1, 0, 1]]
        """
        edges = edges.long()
        weight = torch.ones(edges.shape[1], dtype=dtype, device=edges.device) if weight is None else weight.to(dtype)
        loop = edges[0] == edges[1]
        of_loops = weight.new_zeros(num_nodes).index_add_(0, edges[0, loop], weight[loop])
        has_loop = torch.zeros(num_nodes, dtype=torch.bool, device=edges.device).index_fill_(0, edges[0, loop], True)
        of_loops = torch.where(has_loop, of_loops, 1.0)  # a node that has loops keeps their weight
        nodes = torch.arange(num_nodes, device=edges.device)
        looped = torch.cat([edges[:, ~loop], nodes.expand(2, -1)], 1)
        weights = torch.cat([weight[~loop], of_loops])
        scale = weights.new_zeros(num_nodes).index_add_(0, looped[1], weights).pow(-0.5)
        scale = scale.masked_fill(scale.isinf(), 0.0)  # nothing is sent to it, by loops of weight 0
        normalised = _matrix(looped, scale[looped[0]] * weights * scale[looped[1]], num_nodes)
        degree = torch.bincount(edges[1], minlength=num_nodes).to(dtype)
        return cls(normalised, _matrix(edges, 1 / degree[edges[1]], num_nodes), looped)


def _matrix(edges: Tensor, values: Tensor, num_nodes: int) -> SparseMatrix:
    order = edges[1].argsort(stable=True)
    counts = torch.bincount(edges[1], minlength=num_nodes)
    pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseMatrix.of(csr(pointers, edges[0, order], values[order], (num_nodes, num_nodes)))


def _product(matrix: SparseMatrix, x: Tensor) -> Tensor:
    return (matrix @ x.to(matrix.matrix.dtype)).to(x.dtype)


class GraphConvolution(nn.Module):
    """GCN: y = D^-1/2 (A + I) D^-1/2 x W + b.

    Source:
        Kipf and Welling 2017, arXiv 1609.02907.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edges: GraphEdges) -> Tensor:
        """(N, width) -> (N, out)."""
        return _product(edges.normalised, self.linear(x)) + self.bias


class SampleConvolution(nn.Module):
    """GraphSAGE with the mean: y_i = W mean of the x_j that i reads + b + V x_i.

    Source:
        Hamilton et al. 2017, arXiv 1706.02216.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.neighbours = nn.Linear(width, out)
        self.own = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, edges: GraphEdges) -> Tensor:
        """(N, width) -> (N, out)."""
        y: Tensor = self.neighbours(_product(edges.mean, x)) + self.own(x)
        return y


class GraphAttention(nn.Module):
    """GAT: y_i = sum over j of softmax_j(leaky relu(a . W x_i + b . W x_j)) W x_j + bias, the node itself among the j.

    Source:
        Velickovic et al. 2018, arXiv 1710.10903.
    """

    def __init__(self, width: int, out: int, heads: int, dropout: float = 0.0, slope: float = 0.2) -> None:
        super().__init__()
        self.dropout, self.slope = dropout, slope
        self.linear = nn.Linear(width, out, bias=False)
        self.sender = nn.Parameter(torch.empty(heads, out // heads))
        self.receiver = nn.Parameter(torch.empty(heads, out // heads))
        self.bias = nn.Parameter(torch.zeros(out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for weight in (self.linear.weight, self.sender, self.receiver):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edges: GraphEdges) -> Tensor:
        """(N, width) -> (N, out)."""
        values = self.linear(x).unflatten(1, self.sender.shape)  # (N, H, C)
        wide = at_least_float32(values)
        sent, read = (wide * self.sender).sum(-1), (wide * self.receiver).sum(-1)  # (N, H)
        sender, receiver = edges.looped
        scores = F.leaky_relu(sent.index_select(0, sender) + read.index_select(0, receiver), self.slope)
        if self.training and self.dropout:
            return self._dropped(values, scores, edges.looped) + self.bias
        nothing = values.new_zeros(*values.shape[:2], 1)
        return attend_edges(nothing, nothing, values, edges.looped, bias=scores).flatten(1) + self.bias

    def _dropped(self, values: Tensor, scores: Tensor, looped: Tensor) -> Tensor:
        """Weights are dropped behind the softmax, so that the sums differ: all edges at once, in O(E out) memory."""
        weights = F.dropout(edge_softmax(scores, looped[1], len(values)), self.dropout)
        read = weights[..., None] * values.index_select(0, looped[0])
        return read.new_zeros(values.shape).index_add(0, looped[1], read).to(values.dtype).flatten(1)
