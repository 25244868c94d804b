"""Sampling of neighbours in numpy, a node a lane: the same bits as the native kernels give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.graph import Graph
from tokenmix.ops.graph_rows import check_members

Array = np.ndarray[Any, np.dtype[Any]]
WALKS = 1 << 21  # entries of rows that are looked at together
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MANY = 64  # picks of a row above which places that were taken are looked up


def mix_bits(x: Array) -> Array:
    """A step of splitmix64 for each number of 64 bits (Steele, Lea and Flood 2014).

    Example:
        >>> hex(int(mix_bits(np.zeros(1, np.uint64))[0]))
        '0xe220a8397b1dcdaf'
    """
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def streams(seed: int, hop: int, nodes: Array) -> Array:
    """(S,) the stream of draws of each node."""
    key = mix_bits(mix_bits(np.array([seed], np.uint64)) ^ np.uint64(hop))
    return mix_bits(key ^ nodes.astype(np.uint64))


def draw_below(stream: Array, turn: int | Array, count: Array) -> Array:
    """Draw number `turn` of each stream (one for all, or one each), from 0 to count - 1, count at most 2^32.

    Example:
        >>> drawn = draw_below(np.arange(1000, dtype=np.uint64), 0, np.full(1000, 3))
        >>> np.bincount(drawn).tolist()
        [334, 332, 334]
    """
    x = mix_bits(stream + np.asarray(turn, np.uint64).reshape(-1) * _GOLDEN)
    count = count.astype(np.uint64)
    high, low = (x >> _HALF) * count, ((x & _LOW) * count) >> _HALF
    return ((high + low) >> _HALF).astype(np.int64)


def plain_two_hop(graph: Graph, nodes: Tensor, size: int, seed: int) -> Tensor:
    """See `tokenmix.ops.neighbours.sample_two_hop`; `nodes` (S,) int64 in range, `seed` from 0 to 2^64 - 1."""
    found = np.empty((len(nodes), size), np.int64)
    indptr, indices, ids = graph.indptr.numpy(), graph.indices.numpy(), nodes.numpy()
    for part in _parts(indptr, indices, ids):
        lists, offsets = _candidates(indptr, indices, ids[part])
        found[part] = _choose(lists, offsets, ids[part], size, seed, graph.num_nodes)
    return torch.from_numpy(found)


def _parts(indptr: Array, indices: Array, nodes: Array) -> Iterator[slice]:
    """Stretches of nodes of which the rows, and the rows of whom they name, are not too long; one node at least."""
    for part in _stretches(indptr[nodes + 1] - indptr[nodes]):
        members = nodes[part]
        near, owners = rows_together(indptr, indices, members)
        walks = np.bincount(owners, (indptr[near + 1] - indptr[near]), len(members)).astype(np.int64)
        for inner in _stretches(walks):
            yield slice(part.start + inner.start, part.start + inner.stop)


def _stretches(work: Array) -> Iterator[slice]:
    start, total = 0, np.cumsum(work)
    while start < len(work):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + WALKS, "right")))
        yield slice(start, stop)
        start = stop


def rows_together(indptr: Array, indices: Array, nodes: Array) -> tuple[Array, Array]:
    """The rows of nodes, one after the other.

    Returns:
        their entries int64, and which of the nodes each belongs to.

    Raises:
        ValueError: an entry that is no node.
    """
    starts, degrees = indptr[nodes], indptr[nodes + 1] - indptr[nodes]
    owners = np.repeat(np.arange(len(nodes)), degrees)
    shift = starts - (np.cumsum(degrees) - degrees)
    entries = indices[np.arange(len(owners)) + shift[owners]].astype(np.int64)
    check_members(entries, len(indptr) - 1)
    return entries, owners


def _candidates(indptr: Array, indices: Array, nodes: Array) -> tuple[Array, Array]:
    """Candidates of the nodes, one list after the other, and where each list begins (S + 1,)."""
    near, owners = rows_together(indptr, indices, nodes)
    if len(nodes) == 1:
        far = _distinct(indptr, indices, near)
        return np.concatenate([near, far]), np.array([0, len(near) + len(far)])
    far, walkers = rows_together(indptr, indices, near)
    far_owners = owners[walkers]
    first = np.unique(far_owners * (len(indptr) - 1) + far, return_index=True)[1]
    first.sort()
    both = np.concatenate([owners, far_owners[first]])
    order = np.argsort(both, kind="stable")  # of each node its near ones, then its far ones
    offsets = np.concatenate([[0], np.cumsum(np.bincount(both, minlength=len(nodes)))])
    return np.concatenate([near, far[first]])[order], offsets


def _distinct(indptr: Array, indices: Array, near: Array) -> Array:
    """What the rows of some nodes name, in the order of first occurrence; few rows at a time."""
    seen, found = np.zeros(len(indptr) - 1, bool), [near[:0]]
    for part in _stretches(indptr[near + 1] - indptr[near]):
        far = rows_together(indptr, indices, near[part])[0]
        far = far[~seen[far]]
        far = far[np.sort(np.unique(far, return_index=True)[1])]
        seen[far] = True
        found.append(far)
    return np.concatenate(found)


def _choose(lists: Array, offsets: Array, nodes: Array, size: int, seed: int, num_nodes: int) -> Array:
    """A partial shuffle of each list by Fisher and Yates; `lists` is written over."""
    found, wanted = np.empty((len(nodes), size), np.int64), size - 1
    counts, stream = np.diff(offsets), streams(seed, 0, nodes)
    found[:, 0] = nodes
    alone = np.flatnonzero(counts == 0)
    short = np.flatnonzero((counts > 0) & (counts < wanted))
    long = np.flatnonzero((counts > 0) & (counts >= wanted))
    begin, count = offsets[:-1][long], counts[long]
    for turn in range(wanted):
        found[alone, turn + 1] = draw_below(stream[alone], turn, np.full(len(alone), num_nodes))
        found[short, turn + 1] = lists[offsets[short] + turn % counts[short]]
        place = begin + turn + draw_below(stream[long], turn, count - turn)
        found[long, turn + 1] = lists[place]
        lists[place] = lists[begin + turn]
    return found


def plain_picks(graph: Graph, nodes: Tensor, offsets: Tensor, seed: int, hop: int, replace: bool) -> Tensor:
    """See `tokenmix.ops.native_sampling.native_picks`: Floyd's method, a turn at a time."""
    indptr, ids, begin = graph.indptr.numpy(), nodes.numpy(), offsets.numpy()
    counts, degrees, stream = np.diff(begin), indptr[ids + 1] - indptr[ids], streams(seed, hop, ids)
    picked = np.empty(int(begin[-1]), np.int64)
    if not replace:
        whole = np.flatnonzero(counts == degrees)
        ends = np.cumsum(counts[whole])
        within = np.arange(counts[whole].sum()) - np.repeat(ends - counts[whole], counts[whole])
        picked[within + np.repeat(begin[whole], counts[whole])] = within
        counts = np.where(counts == degrees, 0, counts)
        for row in np.flatnonzero(counts > _MANY):  # long lists, one by one
            picked[begin[row] : begin[row + 1]] = _floyd(stream[row], int(counts[row]), int(degrees[row]))
        counts = np.where(counts > _MANY, 0, counts)
    for turn in range(int(counts.max(initial=0))):
        now = np.flatnonzero(counts > turn)
        if replace:
            picked[begin[now] + turn] = draw_below(stream[now], turn, degrees[now])
            continue
        newest = degrees[now] - counts[now] + turn
        place, taken = draw_below(stream[now], turn, newest + 1), np.zeros(len(now), bool)
        for before in range(turn):
            taken |= picked[begin[now] + before] == place
        picked[begin[now] + turn] = np.where(taken, newest, place)
    owners = np.repeat(np.arange(len(ids)), np.diff(begin))
    found = graph.indices.numpy()[indptr[ids][owners] + picked].astype(np.int64)
    check_members(found, graph.num_nodes)
    return torch.from_numpy(found)


def _floyd(stream: np.uint64, count: int, degree: int) -> np.ndarray:
    """`count` different places of `degree`, as the loop of `plain_picks` picks them."""
    places = draw_below(np.full(count, stream), np.arange(count), degree - count + 1 + np.arange(count))
    found, used = np.empty(count, np.int64), set[int]()
    for turn, place in enumerate(places.tolist()):
        found[turn] = degree - count + turn if place in used else place
        used.add(int(found[turn]))
    return found
