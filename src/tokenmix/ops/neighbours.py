"""Neighbourhoods drawn from a graph: the 2-hop node sets of LargeGT, and fan-out sampling.

What is drawn for a node is a function of the seed and the node alone: neither its batch, nor the order of nodes, nor
the number of workers or threads changes it. The native kernels and the plain path draw the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.ops.common import is_integers
from tokenmix.ops.graph import Graph, check_graph
from tokenmix.ops.native_sampling import native_picks, native_two_hop
from tokenmix.ops.plain_sampling import plain_picks, plain_two_hop

_BITS = 2**64 - 1
_ROW = 1 << 16  # a hop that no fan-out has, for draws of their own


def sample_two_hop(graph: Graph, nodes: Tensor, size: int, *, near: int = 0, seed: int = 0) -> Tensor:
    """Each node with `size - 1` of those at most two edges away: the tokens of LargeGT.

    The candidates of node i are its row, followed by the distinct nodes in the rows of those, in the order of their
    first occurrence. A node of the row can occur there again, and so can i. `size - 1` places of this list are drawn
    without replacement; a shorter list is repeated and cut. An isolated node gets random nodes of the whole graph.
    Time and memory go by the rows that are read, also for a graph on disk; the square of the adjacency is never made.

    Where a node has a hub among its neighbours, nearly all of its candidates are the hub's. `near` keeps places for
    the node's own row: they are drawn from it alone, without replacement, and a shorter row is repeated and cut; the
    rest of the set is drawn as above.

    Args:
        graph: N nodes.
        nodes: (S,) integers.
        size: nodes of a set, the first counted.
        near: places of the `size - 1` that are for the node's row; 0 is LargeGT's sampling.
        seed: of the draws; any whole number, of which the low 64 bits count.

    Returns:
        (S, size) int64, column 0 the node.

    Raises:
        TypeError: nodes that are no integers. ValueError: a node or size that is out of range, a damaged graph.

    Source: Dwivedi, Liu, Luu et al. 2023, "Graph Transformers for Large Graphs", arXiv 2312.11109, section 3.2; their
    code draws once, by Python's random in several processes without a seed.

    Example:
        >>> path = Graph.from_edges(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), 5, undirected=True)
        >>> sample_two_hop(path, torch.tensor([0, 2]), 4).tolist()
        [[0, 1, 0, 2], [2, 4, 2, 3]]
    """
    nodes = _checked_nodes(graph, nodes)
    _check_whole("size", size, 1)
    _check_whole("near", near, 0)
    _check_whole("seed", seed, None)
    if near >= size:
        raise ValueError(f"near: expected fewer than size={size}, found {near}")
    sample = native_two_hop if kernels.available() else plain_two_hop
    if near == 0:
        return sample(graph, nodes, size, seed & _BITS)
    found = sample(graph, nodes, size, seed & _BITS)
    return torch.cat([found[:, :1], _sample_rows(graph, nodes, near, seed, found), found[:, 1 : size - near]], dim=1)


def _sample_rows(graph: Graph, nodes: Tensor, near: int, seed: int, drawn: Tensor) -> Tensor:
    """(S, near) nodes of each row; of those that were drawn for a node whose row is empty."""
    pick = native_picks if kernels.available() else plain_picks
    counts = (graph.indptr[nodes + 1] - graph.indptr[nodes]).clamp(max=near)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    picked = pick(graph, nodes, offsets, seed & _BITS, _ROW, False)
    places = offsets[:-1, None] + torch.arange(near) % counts.clamp(min=1)[:, None]
    if not len(picked):
        return drawn[:, -near:]
    return torch.where(counts[:, None] > 0, picked[places.clamp(max=len(picked) - 1)], drawn[:, -near:])


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A part of a graph with ids of its own.

    Attributes:
        nodes: (U,) int64 ids in the whole graph, each once: those asked for, then those of each hop.
        edges: (2, E) int64 places in `nodes`, sender over receiver.
        counts: how many nodes were asked for, and how many each hop added.
    """

    nodes: Tensor
    edges: Tensor
    counts: tuple[int, ...]


def sample_fan_out(
    graph: Graph, nodes: Tensor, sizes: Sequence[int], *, seed: int = 0, replace: bool = False
) -> Subgraph:
    """At most so many senders of each node, of each of those in turn, and so on: the batches of GraphSAGE.

    Args:
        graph: N nodes.
        nodes: (S,) integers; repeated ones count once.
        sizes: senders that a node picks at each hop; -1 for all, each once. Only nodes that the hop
            before brought in pick.
        seed: of the draws; any whole number.
        replace: pick with replacement; an edge can then come several times, and each node with a row has all its picks.

    Raises:
        TypeError: nodes that are no integers. ValueError: a node or a size that is out of range, a damaged graph.

    Source: Hamilton, Ying and Leskovec 2017, arXiv 1706.02216; torch_geometric's NeighborLoader. Picks by Floyd's
    method (Bentley and Floyd 1987, "A sample of brilliance").

    Example:
        >>> star = Graph.from_edges(torch.tensor([[1, 2, 3, 4], [0, 0, 0, 3]]), 5)
        >>> part = sample_fan_out(star, torch.tensor([0]), [-1, 2])
        >>> part.nodes.tolist(), part.edges.tolist(), part.counts
        ([0, 1, 2, 3, 4], [[1, 2, 3, 4], [0, 0, 0, 3]], (1, 3, 1))
    """
    nodes = _checked_nodes(graph, nodes)
    _check_whole("seed", seed, None)
    if not isinstance(sizes, Sequence):
        raise TypeError(f"sizes: expected a sequence, one size a hop, found {type(sizes).__name__}")
    for hop, size in enumerate(sizes):
        _check_whole(f"sizes[{hop}]", size, -1)
    pick = native_picks if kernels.available() else plain_picks
    known, frontier = _appended(np.empty(0, np.int64), nodes.numpy())[0], 0
    counts, senders, receivers = [len(known)], [known[:0]], [known[:0]]
    for hop, size in enumerate(sizes):
        asking = torch.from_numpy(known[frontier:].copy())
        places = graph.indptr[asking + 1] - graph.indptr[asking]
        if size >= 0:
            places = torch.where(places > 0, size, 0) if replace else places.clamp(max=size)
        offsets = torch.cat([places.new_zeros(1), places.cumsum(0)])
        picked = pick(graph, asking, offsets, seed & _BITS, hop, replace and size >= 0).numpy()
        receivers.append(np.repeat(np.arange(frontier, len(known)), places.numpy()))
        frontier = len(known)
        known, local = _appended(known, picked)
        senders.append(local)
        counts.append(len(known) - frontier)
    edges = np.stack([np.concatenate(senders), np.concatenate(receivers)])
    return Subgraph(torch.from_numpy(known), torch.from_numpy(edges), tuple(counts))


def _appended(known: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`known`, all different, with what is new in `more` behind it, and where each of `more` then is."""
    _, first, inverse = np.unique(np.concatenate([known, more]), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    fresh = first[order][len(known) :] - len(known)
    return np.concatenate([known, more[fresh]]), rank[inverse[len(known) :]]


def _checked_nodes(graph: Graph, nodes: Tensor) -> Tensor:
    """As contiguous int64 on the CPU."""
    check_graph(graph)
    if not is_integers(nodes):
        found = nodes.dtype if isinstance(nodes, Tensor) else type(nodes).__name__
        raise TypeError(f"nodes: expected a tensor of integers, found {found}")
    if nodes.dim() != 1:
        raise ValueError(f"nodes: expected shape (S,), found {tuple(nodes.shape)}")
    nodes = nodes.to("cpu", torch.int64)  # small types cannot hold the number of nodes
    wrong = (nodes < 0) | (nodes >= graph.num_nodes)
    if bool(wrong.any()):
        place = int(wrong.int().argmax())
        ids = f"expected ids from 0 to {graph.num_nodes - 1}" if graph.num_nodes else "expected none without nodes"
        raise ValueError(f"nodes: {ids}, found {int(nodes[place])} in nodes[{place}]")
    return nodes.contiguous()


def _check_whole(name: str, value: object, low: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, found {value!r}")
    if low is not None and value < low:
        raise ValueError(f"{name}: expected at least {low}, found {value}")
