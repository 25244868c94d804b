"""The constant matrices that baselines multiply with: features and normalised adjacencies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tokenmix.ops.graph import Graph
from tokenmix.ops.sparse import SparseMatrix, csr

Normalisation = Literal["symmetric", "mean"]


def adjacency(graph: Graph, normalisation: Normalisation, *, self_loops: bool) -> SparseMatrix:
    """The normalised adjacency of a graph whose edges are read both ways.

    With A of the undirected graph and the sums D of its rows: D^-1/2 A D^-1/2 ("symmetric") or D^-1 A ("mean"). A row
    without an edge is 0.

    Args:
        graph: N nodes; every edge is also read turned round, equal edges count once.
        normalisation: which of the two.
        self_loops: give every node exactly one self loop first; else leave those that are there.

    Returns:
        (N, N) float32.

    Raises:
        ValueError: another normalisation.

    Source: "symmetric" with self loops is the GCN's (Kipf and Welling 2017, arXiv 1609.02907), "mean" without them
    GraphSAGE's (Hamilton et al. 2017, arXiv 1706.02216).

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0], [1]]), 3)
        >>> adjacency(graph, "symmetric", self_loops=True).matrix.to_dense().tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    if normalisation not in ("symmetric", "mean"):
        raise ValueError(f"normalisation: expected 'symmetric' or 'mean', found {normalisation!r}")
    both = Graph.from_edges(graph.edges(), graph.num_nodes, undirected=True, self_loops="add" if self_loops else "keep")
    senders, receivers = both.edges()
    degrees = both.degrees().clamp(min=1).double()
    if normalisation == "mean":
        values = degrees.reciprocal()[receivers]
    else:
        scales = degrees.rsqrt()
        values = scales[receivers] * scales[senders]
    return SparseMatrix.of(csr(both.indptr, both.indices, values.float(), (both.num_nodes, both.num_nodes)))


def feature_matrix(features: Tensor, rows: Tensor | None = None) -> Tensor | SparseMatrix:
    """Features ready for products: dense as they are, sparse ones with their transpose.

    Args:
        features: (N, F), dense or torch.sparse_csr.
        rows: (n,) ids of the rows that are wanted; None for all.

    Example:
        >>> feature_matrix(torch.eye(3), torch.tensor([2])).tolist()
        [[0.0, 0.0, 1.0]]
    """
    if features.layout == torch.strided:
        return features if rows is None else features[rows]
    return SparseMatrix.of(features if rows is None else _rows_of(features, rows))


def _rows_of(features: Tensor, rows: Tensor) -> Tensor:
    pointers, columns, values = features.crow_indices().long(), features.col_indices(), features.values()
    counts = pointers.diff()[rows]
    ends = counts.cumsum(0)
    places = torch.arange(int(counts.sum())) + (pointers[rows] - (ends - counts)).repeat_interleave(counts)
    return csr(torch.cat([ends.new_zeros(1), ends]), columns[places], values[places], (len(rows), features.shape[1]))
