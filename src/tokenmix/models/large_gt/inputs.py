"""The first layer of a LargeGT: of hop features that were computed beforehand, or of a whole graph in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.ops.graph import Graph
from tokenmix.ops.hop_features import normalised_adjacency
from tokenmix.ops.sparse import SparseMatrix


class Projected(NamedTuple):
    """What the first layers give.

    Args:
        tokens: (U, hops + 1, d) for every node that a batch samples, or (N, hops + 1, d) for all; without the bias,
            which is added to those that are read.
        nodes: (B, d) for the targets.
    """

    tokens: Tensor
    nodes: Tensor


class WholeGraph:
    """A graph and its raw features in memory: the first layer of all nodes costs one sparse product a hop.

    A linear layer of aggregated features is the aggregate of the layer's products, W(A^k x) = A^k (W x), so the layer
    goes first, and A^k is applied to d columns and not to F: thousands of sparse features (words) are never made dense,
    and never aggregated. The result is that of `hop_features` followed by the layer.

    Args:
        graph: N nodes.
        features: (N, F), sparse CSR or dense.

    Raises:
        ValueError: as many features as nodes are expected.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0], [1]]), 3, undirected=True)
        >>> whole = WholeGraph(graph, torch.eye(3))
        >>> whole.project(torch.eye(3), hops=1).shape
        torch.Size([3, 2, 3])
    """

    def __init__(self, graph: Graph, features: Tensor) -> None:
        if features.dim() != 2 or features.shape[0] != graph.num_nodes:
            expected = f"({graph.num_nodes}, F)"
            raise ValueError(f"features: expected shape {expected}, found {tuple(features.shape)}")
        self.num_nodes, self.num_features = features.shape
        self._features = SparseMatrix.of(features) if features.layout == torch.sparse_csr else features
        self._adjacency = SparseMatrix.of(normalised_adjacency(graph).to(features.dtype))

    def embed(self, weight: Tensor) -> Tensor:
        """(d, F) weights of a layer without bias -> (N, d)."""
        if isinstance(self._features, SparseMatrix):
            return self._features.to(weight.device) @ weight.t()
        return self._features.to(weight.device) @ weight.t()

    def propagate(self, x: Tensor, hops: int) -> Tensor:
        """(N, d) -> (N, hops + 1, d): x, its aggregate, and so on."""
        adjacency, results = self._adjacency.to(x.device), [x]
        for _ in range(hops):
            results.append(adjacency @ results[-1])
        return torch.stack(results, dim=1)

    def project(self, weight: Tensor, hops: int) -> Tensor:
        """(d, F) weights of a layer without bias -> (N, hops + 1, d), its products with all hop features."""
        return self.propagate(self.embed(weight), hops)


class FirstLayers(nn.Module):
    """Linear layers of the tokens and of the targets, each with weights of its own.

    Args:
        features: F.
        dim: d.
        hops: powers of the adjacency beside the raw features.

    Example:
        >>> layers = FirstLayers(features=5, dim=4, hops=2)
        >>> layers(torch.zeros(7, 3, 5), torch.tensor([6, 0])).nodes.shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, dim: int, hops: int) -> None:
        super().__init__()
        self.hops = hops
        self.token_in = nn.Linear(features, dim)
        self.node_in = nn.Linear(features, dim)
        self._kept: tuple[object, Tensor, Tensor] | None = None

    def forward(self, features: Tensor, targets: Tensor) -> Projected:
        """Of stored features.

        Args:
            features: (U, hops + 1, F).
            targets: (B,) places of the targets among the U nodes.
        """
        features = features.to(self.token_in.weight.dtype)
        return Projected(features @ self.token_in.weight.t(), self.node_in(features[targets, 0]))

    def of_graph(self, graph: WholeGraph, targets: Tensor) -> Projected:
        """Of a graph in memory; without gradients the products are kept until a weight changes.

        Args:
            graph: with its features.
            targets: (B,) ids.
        """
        weights = (self.token_in.weight, self.node_in.weight)
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            self._kept = None
            tokens, nodes = self._products(graph)
        else:
            key = (id(graph), *((id(weight), weight._version) for weight in weights))
            if self._kept is None or self._kept[0] != key:
                self._kept = (key, *self._products(graph))
            tokens, nodes = self._kept[1:]
        return Projected(tokens, nodes[targets] + self.node_in.bias)

    def _products(self, graph: WholeGraph) -> tuple[Tensor, Tensor]:
        dim = self.token_in.out_features
        both = graph.embed(torch.cat([self.token_in.weight, self.node_in.weight]))  # one pass over the features
        tokens, nodes = both.split(dim, dim=1)
        return graph.propagate(tokens.contiguous(), self.hops), nodes
