"""Sampling, collating and aggregating on graphs, against the procedure that LargeGT was published with.

Theirs is written here from its description (arXiv 2312.11109): the square of the adjacency by scipy, lists of
candidates a node, `random.sample`, and a copy a row. L is the number of nodes of a power-law graph of mean degree 10.
"""

from __future__ import annotations

import random
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.rows import Pair, Row, relative_error
from tokenmix import kernels
from tokenmix.ops.graph import Graph, power_law_graph
from tokenmix.ops.hop_features import gather_rows, hop_features, normalised_adjacency
from tokenmix.ops.neighbours import sample_two_hop

SIZE, FEATURES, HOPS, BATCH = 50, 100, 2, 1024
PEER = "LargeGT as published"


@lru_cache(maxsize=1)
def graph_of(length: int) -> Graph:
    return power_law_graph(length, 5 * length, seed=0)


# ---------------------------------------------------------------------- theirs


def published_sets(graph: Graph, size: int) -> np.ndarray:
    """Node sets of all nodes: A*A, its rows and those of A as arrays a node, then Python's random."""
    from scipy.sparse import csr_matrix

    ones = np.ones(graph.num_edges, np.float32)
    shape = (graph.num_nodes, graph.num_nodes)
    near = csr_matrix((ones, graph.indices.numpy(), graph.indptr.numpy()), shape=shape)
    far = near @ near
    near_lists = np.split(near.indices, near.indptr[1:-1])
    far_lists = np.split(far.indices, far.indptr[1:-1])
    found = np.empty((graph.num_nodes, size), np.int64)
    for node in range(graph.num_nodes):
        candidates = near_lists[node].tolist() + far_lists[node].tolist()
        if not candidates:
            chosen = random.sample(range(graph.num_nodes), size - 1)
        elif len(candidates) >= size - 1:
            chosen = random.sample(candidates, size - 1)
        else:
            chosen = (candidates * (size // len(candidates) + 1))[: size - 1]
        found[node] = [node, *chosen]
    return found


def published_batch(parts: list[Tensor], sets: Tensor) -> Tensor:
    """Tokens (B, K * (hops + 1), F) of a batch, a node at a time."""
    rows = [torch.stack([part[places] for part in parts], dim=1).flatten(0, 1) for places in sets]
    return torch.stack(rows)


def published_hops(adjacency: Tensor, x: Tensor, hops: int) -> Tensor:
    """Hop features by a sparse product a hop and a copy a node."""
    found = torch.empty(len(x), hops + 1, x.shape[1])
    for node in range(len(x)):
        found[node, 0] = x[node]
    for hop in range(1, hops + 1):
        x = adjacency @ x
        for node in range(len(x)):
            found[node, hop] = x[node]
    return found


# ---------------------------------------------------------------------- pairs


def sample_pair(length: int, *, plain: bool = False) -> Pair:
    """Node sets of all nodes of the graph, everything that is needed for them counted."""
    graph = graph_of(length)

    def ours() -> Tensor:
        with kernels.use("torch" if plain else "auto"):
            return sample_two_hop(graph, torch.arange(graph.num_nodes), SIZE)

    def errors() -> dict[str, float]:
        nodes = range(0, length, max(1, length // 200))
        mine, other = ours(), torch.from_numpy(published_sets(graph, SIZE))
        return {
            f"{who} candidates": _strangers(graph, sets, nodes) for who, sets in (("ours", mine), ("theirs", other))
        }

    notes = f"{SIZE} nodes a set, {graph.num_edges:,} entries, largest degree {int(graph.degrees().max()):,}"
    return Pair(ours, lambda: published_sets(graph, SIZE), errors, limit=0, notes=notes)


def _strangers(graph: Graph, sets: Tensor, nodes: range) -> float:
    """The share of drawn nodes that are farther than two edges away; of some sets."""
    wrong = 0
    for node in nodes:
        near = _row(graph, node)
        allowed = set(near).union(*(_row(graph, sender) for sender in near))
        wrong += sum(drawn not in allowed for drawn in sets[node, 1:].tolist()) if near else 0
    return wrong / (len(nodes) * SIZE)


def _row(graph: Graph, node: int) -> list[int]:
    return graph.indices[int(graph.indptr[node]) : int(graph.indptr[node + 1])].tolist()


def collate_pair(length: int, *, reused: bool = True) -> Pair:
    """The features of a batch: one tensor of all hops, rows gathered into memory that was used before, or fresh."""
    graph = graph_of(length)
    features = torch.randn(length, HOPS + 1, FEATURES, generator=torch.Generator().manual_seed(0))
    parts = [features[:, hop].contiguous() for hop in range(HOPS + 1)]
    sets = sample_two_hop(graph, torch.arange(0, length, max(1, length // BATCH))[:BATCH], SIZE)
    kept = torch.empty(*sets.shape, HOPS + 1, FEATURES) if reused else None

    def ours() -> Tensor:
        return gather_rows(features, sets, kept).flatten(1, 2)

    def theirs() -> Tensor:
        return published_batch(parts, sets)

    def errors() -> dict[str, float]:
        return {"ours bits": float((ours() != theirs()).float().mean())}

    return Pair(ours, theirs, errors, limit=0, notes=f"{len(sets)} sets of {SIZE} nodes, {HOPS + 1} x {FEATURES} each")


def hop_pair(length: int) -> Pair:
    """One hop of features of 100 numbers a node."""
    graph = graph_of(length)
    x = torch.randn(length, FEATURES, generator=torch.Generator().manual_seed(0))
    adjacency = normalised_adjacency(graph).to_sparse_coo().coalesce()

    def ours() -> Tensor:
        return hop_features(graph, x, 1)

    def theirs() -> Tensor:
        return published_hops(adjacency, x, 1)

    def errors() -> dict[str, float]:
        exact = torch.stack([x.double(), adjacency.double() @ x.double()], dim=1)
        return {"ours y": relative_error(ours(), exact), "theirs y": relative_error(theirs(), exact)}

    return Pair(ours, theirs, errors)


NODES = 100_000
SAMPLE = f"LargeGT's 2-hop node sets of {SIZE}, all nodes"
COLLATE = f"hop features of a batch of {BATCH} sets"
ROWS = [
    Row("graph/sample", SAMPLE, PEER, sample_pair, NODES, 8, 15, ("scipy",), rounds=3),
    Row("graph/no-compiler/sample", f"{SAMPLE}, plain numpy", PEER, partial(sample_pair, plain=True), NODES, None,
        None, ("scipy",), rounds=3),
    Row("graph/sample/memory", "its peak memory", PEER, sample_pair, NODES, None, None, ("scipy",), memory=True),
    Row("graph/collate", f"{COLLATE}, memory used again", PEER, collate_pair, NODES, 4),
    Row("graph/collate/fresh", f"{COLLATE}, fresh memory", PEER, partial(collate_pair, reused=False), NODES),
    Row("graph/hops", f"hop features, {FEATURES} a node, one hop", PEER, hop_pair, NODES, 7, rounds=5),
]  # fmt: skip
