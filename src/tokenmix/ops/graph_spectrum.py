"""The smoothest functions on a graph: eigenvectors of its normalised Laplacian, without those that say nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenmix.ops.graph import Graph

DENSE_NODES = 2_000  # up to here all eigenvectors are computed
POWER = 32  # of the operator that Lanczos sees
ROUGH = 1e-6  # eigenvalues of the power below which vectors are left out: above 0.7 of the Laplacian

Floats = NDArray[np.float64]


class Smoothing(NamedTuple):
    """What multiplies a function on n linked nodes by I - L.

    Args:
        matrix: (n, n) D^(-1/2) A D^(-1/2), scipy CSR.
        label: (n,) component of each node.
        trivial: (n,) square root of the degree, of norm 1 in each component: the eigenvector of 1.
        nodes: (n,) which nodes of the graph have a neighbour.
    """

    matrix: Any
    label: NDArray[np.int64]
    trivial: Floats
    nodes: NDArray[np.int64]


def smoothest_vectors(graph: Graph, dim: int, seed: int, tolerance: float) -> Floats:
    """(N, dim) eigenvectors of the Laplacian; see `tokenmix.ops.graph_positions.laplacian_encoding`.

    Example:
        >>> import torch
        >>> pair = Graph.from_edges(torch.tensor([[0], [1]]), 3)
        >>> smoothest_vectors(pair, 1, seed=0, tolerance=1e-4).round(3).tolist()
        [[0.707], [-0.707], [0.0]]
    """
    encoding = np.zeros((graph.num_nodes, dim))
    smoothing = smoothing_of(graph)
    linked = len(smoothing.nodes)
    count = min(dim, linked - len(np.unique(smoothing.label)))
    if count > 0:
        if linked <= max(DENSE_NODES, 4 * dim):
            vectors = _all_vectors(smoothing, count)
        else:
            vectors = _lanczos(smoothing, count, seed, tolerance)
        encoding[smoothing.nodes, :count] = _fix_signs(vectors)
    return encoding


def smoothing_of(graph: Graph) -> Smoothing:
    """Edges in either direction link two nodes; self loops and repetitions do not count.

    Raises:
        ImportError: scipy is not there.
    """
    try:
        from scipy import sparse
        from scipy.sparse.csgraph import connected_components
    except ImportError as error:
        raise ImportError("laplacian_encoding needs scipy: pip install tokenmix[graphs]") from error
    receiver = np.repeat(np.arange(graph.num_nodes), graph.degrees().numpy())
    sender = graph.check().indices.numpy()
    apart = receiver != sender
    pairs = (np.ones(int(apart.sum())), (receiver[apart], sender[apart]))
    linked = sparse.coo_matrix(pairs, shape=(graph.num_nodes, graph.num_nodes)).tocsr()
    linked = linked + linked.T
    nodes = np.flatnonzero(np.diff(linked.indptr))
    linked = linked[nodes][:, nodes]
    linked.data[:] = 1
    degrees = np.asarray(linked.sum(1)).ravel()
    scale = sparse.diags(1 / np.sqrt(degrees))
    _, label = connected_components(linked, directed=False)
    volume = np.bincount(label, degrees)
    return Smoothing((scale @ linked @ scale).tocsr(), label.astype(np.int64), np.sqrt(degrees / volume[label]), nodes)


def _all_vectors(smoothing: Smoothing, count: int) -> Floats:
    """(n, count), from LAPACK; the trivial vectors are moved below all others."""
    matrix, label, trivial, nodes = smoothing
    together = label[:, None] == label[None, :]
    dense = (np.eye(len(nodes)) + matrix.toarray()) / 2 - 2 * together * np.outer(trivial, trivial)
    return np.linalg.eigh(dense)[1][:, ::-1][:, :count]


def _lanczos(smoothing: Smoothing, count: int, seed: int, tolerance: float) -> Floats:
    """(n, count), from ARPACK, in the order of the eigenvalues of ((I + matrix) / 2)^32 from above."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    matrix, label, trivial, nodes = smoothing

    def smoothed(x: Floats) -> Floats:
        x = x.ravel()
        for _ in range(POWER):  # cheap products, which spare dear orthogonalisations
            x = (x + matrix @ x) / 2
        return x - trivial * np.bincount(label, trivial * x)[label]

    operator = LinearOperator(matrix.shape, matvec=smoothed, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(len(nodes))
    basis = min(len(nodes), max(2 * count + 1, 20))
    values, vectors = eigsh(operator, k=count, which="LA", v0=start, ncv=basis, tol=tolerance)
    order = np.argsort(-values, kind="stable")
    return vectors[:, order] * (values[order] > ROUGH)  # of rough functions, the power leaves rounding errors


def _fix_signs(vectors: Floats) -> Floats:
    """Make the first entry of (nearly) the largest magnitude positive."""
    size = np.abs(vectors)
    first = (size >= (1 - 1e-6) * size.max(0)).argmax(0)
    return vectors * np.where(vectors[first, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
