"""Edges as compressed rows: checked, sorted and counted in blocks, so that little memory is needed beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.common import is_integers

BLOCK = 1 << 22  # edges that are looked at together
Keys = np.ndarray[Any, np.dtype[np.uint64]]  # receiver * 2^32 + sender


def check_rows(indptr: Tensor, indices: Tensor) -> None:
    """Refuse what cannot be rows; the indices themselves are not looked at.

    Raises:
        TypeError: another dtype or device. ValueError: another shape, or an indptr that falls or ends elsewhere.
    """
    for name, value, dtypes in (
        ("indptr", indptr, (torch.int64,)),
        ("indices", indices, (torch.int32, torch.int64)),
    ):
        if not isinstance(value, Tensor) or value.dtype not in dtypes or value.device.type != "cpu":
            expected = " or ".join(str(dtype) for dtype in dtypes)
            found = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name}: expected a tensor of {expected} on the CPU, found {found}")
        if value.dim() != 1 or not value.is_contiguous():
            raise ValueError(f"{name}: expected one contiguous axis, found shape {tuple(value.shape)}")
    if not len(indptr) or int(indptr[0]) != 0 or int(indptr[-1]) != len(indices):
        ends = [int(indptr[0]), int(indptr[-1])] if len(indptr) else []
        raise ValueError(f"indptr: expected numbers from 0 to {len(indices)}, the number of indices, found {ends}")
    if bool((indptr[1:] < indptr[:-1]).any()):
        row = int((indptr[1:] < indptr[:-1]).int().argmax())
        raise ValueError(f"indptr: expected rising numbers, found {indptr[row : row + 2].tolist()} at {row}")


DAMAGED = "graph: its files are damaged: a row names a node that the graph does not have"


def check_members(entries: Tensor | np.ndarray, num_nodes: int) -> None:
    """Refuse entries of rows that are no nodes: a graph on disk is not looked at before it is read.

    Raises:
        ValueError: there is one.
    """
    if len(entries) and not 0 <= int(entries.min()) <= int(entries.max()) < num_nodes:
        raise ValueError(DAMAGED)


def check_edges(edges: Tensor, num_nodes: int) -> None:
    """Refuse anything but (2, E) integers from 0 to num_nodes - 1.

    Raises:
        TypeError: no integers. ValueError: another shape, or an id that is out of range.
    """
    if not is_integers(edges):
        found = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise TypeError(f"edges: expected a tensor of integers, found {found}")
    if edges.dim() != 2 or len(edges) != 2:
        raise ValueError(f"edges: expected shape (2, E), found {tuple(edges.shape)}")
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or not 0 <= num_nodes <= 2**32:
        raise ValueError(f"num_nodes: expected a whole number from 0 to 2^32, found {num_nodes!r}")
    for row in range(2):
        for start in range(0, edges.shape[1], BLOCK):
            block = edges[row, start : start + BLOCK].long()  # small types cannot hold the number of nodes
            low, high = map(int, block.aminmax())
            if low < 0 or high >= num_nodes:
                place = int(((block < 0) | (block >= num_nodes)).int().argmax())
                ids = f"expected ids from 0 to {num_nodes - 1}" if num_nodes else "expected none without nodes"
                raise ValueError(f"edges: {ids}, found {int(block[place])} in edges[{row}, {start + place}]")


def _blocks(edges: Tensor, undirected: bool) -> Iterator[tuple[Keys, Keys]]:
    """Senders and receivers, some at a time; then turned round, without self loops."""
    for turned in (False, True)[: 1 + undirected]:
        for start in range(0, edges.shape[1], BLOCK):
            sender, receiver = edges[:, start : start + BLOCK].cpu().numpy().astype(np.uint64)
            if turned:
                kept = sender != receiver
                sender, receiver = receiver[kept], sender[kept]
            yield sender, receiver


def sorted_keys(edges: Tensor, num_nodes: int, undirected: bool, self_loops: str) -> Keys:
    """One key an edge, sorted in place; see `Graph.from_edges` for the arguments.

    Example:
        >>> [divmod(int(key), 2**32) for key in sorted_keys(torch.tensor([[3, 0], [1, 1]]), 4, False, "keep")]
        [(1, 0), (1, 3)]
    """
    shift = np.uint64(32)
    keys = np.empty(edges.shape[1] * (1 + undirected) + num_nodes * (self_loops == "add"), np.uint64)
    count = 0
    for sender, receiver in _blocks(edges, undirected):
        if self_loops != "keep":
            kept = sender != receiver
            sender, receiver = sender[kept], receiver[kept]
        keys[count : count + len(sender)] = (receiver << shift) | sender
        count += len(sender)
    if self_loops == "add":
        loops = np.arange(num_nodes, dtype=np.uint64)
        keys[count : count + num_nodes] = (loops << shift) | loops
        count += num_nodes
    keys = keys[:count]
    keys.sort()
    return keys


def distinct_keys(random: np.random.Generator, wanted: int, block: int, draw: Callable[[int], Keys]) -> Keys:
    """Different keys, drawn until there are enough; of those that are too many, random ones are left out.

    Args:
        random: leaves some out.
        wanted: how many; there must be many more that can be drawn.
        block: keys that are drawn together, at most.
        draw: count -> (at most count,) keys.

    Returns:
        (wanted,) sorted keys.
    """
    found = np.empty(0, np.uint64)
    while len(found) < wanted:
        missing = wanted - len(found)
        missing += missing // 16 + 16
        drawn = [found, *(draw(min(block, missing - start)) for start in range(0, missing, block))]
        found = np.concatenate(drawn)
        del drawn
        found.sort()
        found = found[np.concatenate([np.ones(1, bool), found[1:] != found[:-1]])] if len(found) else found
    if len(found) > wanted:
        kept = np.ones(len(found), bool)
        kept[random.choice(len(found), len(found) - wanted, replace=False)] = False
        found = found[kept]
    return found


def rows_of(keys: Keys, num_nodes: int, coalesce: bool) -> tuple[Tensor, Tensor]:
    """Indptr (N + 1,) and indices (E,) of sorted keys.

    Example:
        >>> rows_of(np.array([1, 1, 2**32], np.uint64), 2, coalesce=True)
        (tensor([0, 1, 2]), tensor([1, 0], dtype=torch.int32))
    """
    counts = np.zeros(num_nodes + 1, np.int64)
    indices = np.empty(len(keys), np.int32 if num_nodes < 2**31 else np.int64)
    kept_before, last = 0, None
    for start in range(0, len(keys), BLOCK):
        block = keys[start : start + BLOCK]
        if coalesce:
            kept = np.ones(len(block), bool)
            np.not_equal(block[1:], block[:-1], out=kept[1:])
            kept[0] = last is None or block[0] != last
            last = block[-1]
            block = block[kept]
        if len(block):
            receiver = (block >> np.uint64(32)).astype(np.int64)
            low = int(receiver[0])
            found = np.bincount(receiver - low)
            counts[low + 1 : low + 1 + len(found)] += found
            indices[kept_before : kept_before + len(block)] = block & np.uint64(0xFFFFFFFF)
            kept_before += len(block)
    if kept_before < len(indices):
        indices = indices[:kept_before].copy()
    return torch.from_numpy(np.cumsum(counts, out=counts)), torch.from_numpy(indices)
