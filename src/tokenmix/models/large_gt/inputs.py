"""The first layer of a LargeGT: of hop features that were computed beforehand, or of a whole graph in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.ops.common import without_autocast
from tokenmix.ops.graph import Graph, check_graph
from tokenmix.ops.hop_features import normalised_adjacency
from tokenmix.ops.sparse import SparseMatrix


class Projected(NamedTuple):
    """What the first layers give, each where it is there.

    Args:
        tokens: (U, hops + 1, d) for every node that a batch samples, or (N, hops + 1, d) for all; without the bias,
            which is added to those that are read.
        nodes: (B, d) for the targets.
    """

    tokens: Tensor | None
    nodes: Tensor | None


class WholeGraph:
    """A graph and its raw features in memory: the first layer of all nodes costs one sparse product a hop.

    A linear layer of aggregated features is the aggregate of the layer's products, W(A^k x) = A^k (W x), so the layer
    goes first, and A^k is applied to d columns and not to F: thousands of sparse features (words) are never made dense,
    and never aggregated. The result is that of `hop_features` followed by the layer. Products are taken in float32 or
    better, and are in the dtype of the weights.

    Args:
        graph: N nodes.
        features: (N, F), sparse CSR or dense.

    Raises:
        ValueError: another number of rows than nodes, or features that are no numbers. TypeError: another layout.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0], [1]]), 3, undirected=True)
        >>> whole = WholeGraph(graph, torch.eye(3))
        >>> whole.propagate(whole.embed(torch.eye(3)), hops=1).shape
        torch.Size([3, 2, 3])
    """

    def __init__(self, graph: Graph, features: Tensor) -> None:
        check_graph(graph)
        if features.dim() != 2 or features.shape[0] != graph.num_nodes:
            expected = f"({graph.num_nodes}, F)"
            raise ValueError(f"features: expected shape {expected}, found {tuple(features.shape)}")
        sparse = features.layout == torch.sparse_csr
        if not sparse and features.layout != torch.strided:
            raise TypeError(f"features: expected a dense tensor or torch.sparse_csr, found {features.layout}")
        if not bool((features.values() if sparse else features).isfinite().all()):
            raise ValueError("features: expected finite numbers, found NaN or infinity")
        self.num_nodes, self.num_features = features.shape
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        adjacency = SparseMatrix.of(normalised_adjacency(graph).to(features.dtype))
        self._here: dict[torch.device, tuple[Any, SparseMatrix]] = {  # on each device, moved once
            features.device: (SparseMatrix.of(features) if sparse else features, adjacency)
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeGraph:
        return self  # nothing changes it

    def embed(self, weight: Tensor) -> Tensor:
        """(d, F) weights of a layer without bias -> (N, d)."""
        features = self._on(weight.device)[0]
        dtype = features.matrix.dtype if isinstance(features, SparseMatrix) else features.dtype
        with without_autocast(weight.device):
            product: Tensor = features @ weight.t().to(dtype)
        return product.to(weight.dtype)

    def propagate(self, x: Tensor, hops: int) -> Tensor:
        """(N, d) -> (N, hops + 1, d): x, its aggregate, and so on."""
        adjacency = self._on(x.device)[1]
        results = [x.to(adjacency.matrix.dtype)]
        for _ in range(hops):
            results.append(adjacency @ results[-1])
        return torch.stack(results, dim=1).to(x.dtype)

    def _on(self, device: torch.device) -> tuple[Any, SparseMatrix]:
        if device not in self._here:
            features, adjacency = next(iter(self._here.values()))
            self._here[device] = (features.to(device), adjacency.to(device))
        return self._here[device]


class FirstLayers(nn.Module):
    """Linear layers of the tokens and of the targets, each with weights of its own.

    Args:
        features: F.
        dim: d.
        hops: powers of the adjacency beside the raw features.
        mode: "full", "local" (tokens alone) or "global" (targets alone).

    Example:
        >>> layers = FirstLayers(features=5, dim=4, hops=2)
        >>> layers(torch.zeros(7, 3, 5), torch.tensor([6, 0])).nodes.shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, dim: int, hops: int, mode: str = "full") -> None:
        super().__init__()
        self.hops = hops
        self.token_in = nn.Linear(features, dim) if mode != "global" else None
        self.node_in = nn.Linear(features, dim) if mode != "local" else None
        self._kept: tuple[WholeGraph, list[Tensor], Projected] | None = None

    def forward(self, features: Tensor, targets: Tensor) -> Projected:
        """Of stored features.

        Args:
            features: (U, hops + 1, F).
            targets: (B,) places of the targets among the U nodes.
        """
        features = features.to(self._layers()[0].weight.dtype)
        tokens = None if self.token_in is None else features @ self.token_in.weight.t()
        return Projected(tokens, None if self.node_in is None else self.node_in(features[targets, 0]))

    def of_graph(self, graph: WholeGraph, targets: Tensor) -> Projected:
        """Of a graph in memory; without gradients the products are kept until a weight or the graph changes.

        Args:
            graph: with its features.
            targets: (B,) ids.
        """
        weights = [layer.weight for layer in self._layers()]
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            self._kept = None
            tokens, nodes = self._products(graph, weights)
        else:
            if self._kept is None or self._kept[0] is not graph or not _equal(self._kept[1], weights):
                self._kept = (graph, [weight.detach().clone() for weight in weights], self._products(graph, weights))
            tokens, nodes = self._kept[2]
        return Projected(tokens, None if self.node_in is None or nodes is None else nodes[targets] + self.node_in.bias)

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in (self.token_in, self.node_in) if layer is not None]

    def _products(self, graph: WholeGraph, weights: list[Tensor]) -> Projected:
        parts = iter(graph.embed(torch.cat(weights)).split([len(weight) for weight in weights], dim=1))  # in one pass
        tokens = None if self.token_in is None else graph.propagate(next(parts).contiguous(), self.hops)
        return Projected(tokens, next(parts, None))


def _equal(kept: list[Tensor], weights: list[Tensor]) -> bool:
    """Whether the weights are those that were kept, whichever way they may have been written."""
    return all(
        before.dtype == now.dtype and before.device == now.device and torch.equal(before, now)
        for before, now in zip(kept, weights, strict=True)
    )
