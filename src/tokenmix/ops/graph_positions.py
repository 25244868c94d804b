"""Where a node is in its graph: random walks, eigenvectors of the Laplacian, node2vec."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.common import check_positive
from tokenmix.ops.graph import Graph, check_graph
from tokenmix.ops.graph_spectrum import smoothest_vectors
from tokenmix.ops.sparse import csr

EXACT_NODES = 10_000  # up to here powers of the walk are computed exactly
BLOCK = 2**17  # numbers of a dense block: about what caches hold
WALKERS = 2**20  # walks at a time


def random_walk_encoding(
    graph: Graph, steps: int, *, exact: bool | None = None, walks: int = 256, seed: int = 0
) -> Tensor:
    """The probability that a random walk is back where it began, after 1 to `steps` steps.

        p_ik = (P^k)_ii,   P_ij = (edges from i's row to j) / (entries of i's row)

    A walk goes from a node to the nodes that it reads; where it reads none, it ends. Isolated nodes get 0.

    Exact: powers of P, a block of columns at a time, in O(steps * E * N) work and O(N) memory. Else the share of
    `walks` walks from each node, with a standard error of sqrt(p (1 - p) / walks), in O(steps * N * walks) work.

    Args:
        graph: N nodes; give an undirected one both ways of each edge.
        steps: k.
        exact: default: for up to 10,000 nodes.
        walks: walks from each node where it is not exact.
        seed: of the walks; the result does not depend on the number of threads.

    Returns:
        (N, steps) float32.

    Raises:
        ValueError, TypeError: steps or walks below 1.

    Example:
        >>> pair = Graph.from_edges(torch.tensor([[0, 1], [1, 0]]), 3)
        >>> random_walk_encoding(pair, 3).tolist()
        [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]

    Source: Dwivedi et al. 2022 (2110.07875), section 3.
    """
    check_graph(graph)
    check_positive("steps", steps)
    check_positive("walks", walks)
    if exact is None:
        exact = graph.num_nodes <= EXACT_NODES
    return _exact_returns(graph, steps) if exact else _estimated_returns(graph, steps, walks, seed)


def laplacian_encoding(
    graph: Graph,
    dim: int,
    *,
    sign: Literal["fixed", "random"] = "fixed",
    seed: int = 0,
    tolerance: float = 1e-4,
) -> Tensor:
    """Eigenvectors of the normalised Laplacian, from the smoothest that says something.

        L = I - D^(-1/2) A D^(-1/2),   A_ij = 1 where i reads j or j reads i, for i != j

    Each connected component has one eigenvector of eigenvalue 0, which tells nodes apart by their degrees alone. These
    are left out, and the `dim` next ones are returned, in the order of their eigenvalues, each of norm 1. A small
    component has no small eigenvalues of its own, so its nodes mostly get 0, as isolated nodes do.

    Up to 2,000 nodes (or 4 dim) all eigenvectors are computed (LAPACK). Larger graphs are approximate, and columns of
    functions whose eigenvalue is above 0.7 are 0 (as many small components have them): restarted Lanczos
    (ARPACK) on ((2 I - L) / 2)^32 without the eigenvectors of 0, from a start drawn by `seed`, to a relative
    `tolerance` of its eigenvalues. The residual |L u - lambda u| is then below about tolerance / 16, and eigenvectors
    whose eigenvalues are nearer to each other than that may be mixed. Where eigenvalues are equal, any basis is as
    good: it depends on the seed.

    Args:
        graph: N nodes.
        dim: number of eigenvectors. Where there are fewer, the last columns are 0.
        sign: "fixed": the entry of largest magnitude is positive (the first such node, where several are equal);
            "random": flipped by `seed`. For training, flip them anew in each step with `flip_signs`.
        seed: of the start, and of random signs.
        tolerance: relative, of the eigenvalues that Lanczos sees.

    Returns:
        (N, dim) float32.

    Raises:
        ValueError, TypeError: dim below 1, an unknown sign, a tolerance that is not positive.
        ImportError: scipy is not there.

    Example:
        >>> path = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 3, undirected=True)
        >>> encoding = laplacian_encoding(path, 2)
        >>> torch.allclose(encoding, torch.tensor([[1.0, -0.5 * 2**0.5], [0, 1], [-1, -0.5 * 2**0.5]]) / 2**0.5)
        True

    Source: Dwivedi & Bresson 2020 (2012.09699), section 2.1.
    """
    check_graph(graph)
    check_positive("dim", dim)
    if sign not in ("fixed", "random"):
        raise ValueError(f"sign: expected 'fixed' or 'random', found {sign!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive number, found {tolerance}")
    seed = seed % 2**63  # what both generators take
    encoding = torch.from_numpy(smoothest_vectors(graph, dim, seed, tolerance)).float()
    return encoding if sign == "fixed" else flip_signs(encoding, torch.Generator().manual_seed(seed))


def flip_signs(encoding: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Multiply each column by 1 or -1 at random: an eigenvector has no sign of its own, and a model can learn so.

    Args:
        encoding: (..., dim); each column is flipped as a whole.
        generator: of the flips; default torch's.

    Returns:
        (..., dim).

    Example:
        >>> flipped = flip_signs(torch.ones(3, 2), torch.Generator().manual_seed(0))
        >>> bool((flipped == flipped[:1]).all()), flipped.abs().unique().tolist()
        (True, [1.0])

    Source: Dwivedi & Bresson 2020 (2012.09699), section 2.1.
    """
    device = encoding.device if generator is None else generator.device
    flips = torch.randint(0, 2, encoding.shape[-1:], generator=generator, device=device)
    return encoding * (2 * flips - 1).to(encoding)


def node2vec_encoding(
    graph: Graph,
    dim: int,
    *,
    walk_length: int = 40,
    context_size: int = 20,
    walks_per_node: int = 10,
    epochs: int = 1,
    batch_size: int = 256,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """Vectors that tell which nodes meet on random walks, learned by torch_geometric's Node2Vec.

    Args:
        graph: N nodes; a walk goes from a node to the nodes that it reads.
        dim: width of the vectors.
        walk_length, context_size, walks_per_node, epochs, learning_rate: as LargeGT's authors chose them.
        batch_size: nodes a step.
        seed: of the start and of the walks, as far as torch_geometric's walks obey it.

    Returns:
        (N, dim) float32.

    Raises:
        ImportError: torch_geometric, or the pyg-lib that its walks need, is not there; the message says which.

    Example:
        >>> node2vec_encoding(Graph.from_edges(torch.tensor([[0], [1]]), 2), dim=8)  # doctest: +SKIP
        tensor([[...

    Source: Grover & Leskovec 2016 (1607.00653).
    """
    check_positive("dim", dim)
    node2vec = _node2vec()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"walk_length": walk_length, "context_size": context_size, "walks_per_node": walks_per_node}
        edges = graph.edges().flip(0)  # from the receiver to the sender that it reads
        model = node2vec(edges, dim, num_nodes=graph.num_nodes, sparse=True, **sizes)
        optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=learning_rate)
        for _ in range(epochs):
            for walks, strangers in model.loader(batch_size=batch_size, shuffle=True):
                optimizer.zero_grad()
                model.loss(walks, strangers).backward()
                optimizer.step()
        encoding: Tensor = model().detach().clone()
    return encoding


# ---------------------------------------------------------------------- random walks


def _exact_returns(graph: Graph, steps: int) -> Tensor:
    nodes, degrees = graph.num_nodes, graph.degrees()
    share = degrees.clamp(min=1).double().reciprocal().float()
    walk = csr(graph.indptr, graph.check().indices, share.repeat_interleave(degrees), (nodes, nodes))
    found = torch.zeros(nodes, steps)
    size = max(1, BLOCK // max(1, nodes))
    for low in range(0, nodes, size):
        columns = torch.arange(low, min(low + size, nodes))
        power = torch.zeros(nodes, len(columns))
        power[columns, columns - low] = 1
        for k in range(steps):
            power = walk @ power
            found[low : low + size, k] = power[columns, columns - low]
    return found


def _estimated_returns(graph: Graph, steps: int, walks: int, seed: int) -> Tensor:
    """Blocks of nodes have a size that depends on `walks` alone, and each its own stream of numbers."""
    nodes, pointers, indices = graph.num_nodes, graph.indptr.numpy(), graph.check().indices.numpy()
    found = np.zeros((nodes, steps), dtype=np.float32)
    size = max(1, WALKERS // walks)
    for block, low in enumerate(range(0, nodes, size)):
        numbers = np.random.Generator(np.random.Philox(seed=[seed & (2**64 - 1), block]))
        home = np.arange(low, min(low + size, nodes)).repeat(walks)
        place, here = home.copy(), np.arange(len(home))  # walks that have not ended
        for k in range(steps):
            start = pointers[place]
            degree = pointers[place + 1] - start
            alive = degree > 0
            place, here, start, degree = place[alive], here[alive], start[alive], degree[alive]
            step = (numbers.random(len(here)) * degree).astype(np.int64)
            place = indices[start + np.minimum(step, degree - 1)].astype(np.int64)
            back = home[here] == place
            found[low : low + size, k] = np.bincount((home[here[back]] - low), minlength=min(size, nodes - low))
    return torch.from_numpy(found / np.float32(walks))


# ---------------------------------------------------------------------- checks


def _node2vec() -> Any:
    """torch_geometric's class, if it can walk."""
    try:
        from torch_geometric.nn import Node2Vec
        from torch_geometric.typing import WITH_PYG_LIB
    except ImportError as error:
        raise ImportError("node2vec_encoding needs torch_geometric: pip install tokenmix[graphs]") from error
    if not WITH_PYG_LIB:
        raise ImportError(
            "node2vec_encoding needs pyg-lib beside torch_geometric, and it is not there; PyPI has none, see "
            "https://data.pyg.org/whl for wheels that fit your torch. Without it: laplacian_encoding or "
            "random_walk_encoding"
        )
    return Node2Vec
