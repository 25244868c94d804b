"""Graphs in the native kernels: sampling, with the same bits as `ops.plain_sampling`, and hop features."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native
from tokenmix.ops.graph import Graph
from tokenmix.ops.graph_rows import DAMAGED

_BAD_INDEX = 2
_STEPS = 256  # steps of arithmetic that a node takes or so, by which the number of threads is chosen


def native_two_hop(graph: Graph, nodes: Tensor, size: int, seed: int) -> Tensor:
    """See `tokenmix.ops.neighbours.sample_two_hop`.

    Args:
        graph: N nodes.
        nodes: (S,) contiguous int64, in range.
        size: at least 1.
        seed: from 0 to 2^64 - 1.
    """
    found = torch.empty(len(nodes), size, dtype=torch.int64)
    call = native.TwoHop(
        *map(native.address, (graph.indptr, graph.indices, nodes, found)),
        *(graph.num_nodes, len(nodes), size, ctypes.c_int64(seed).value),
        int(graph.indices.dtype == torch.int64),
        native.threads(len(nodes) * _STEPS),
    )
    _run(kernels.library().tm_two_hop, call)
    return found


def native_picks(graph: Graph, nodes: Tensor, offsets: Tensor, seed: int, hop: int, replace: bool) -> Tensor:
    """Senders that each node picks from its row: as many as it has places.

    Args:
        graph: N nodes.
        nodes: (S,) contiguous int64, in range.
        offsets: (S + 1,) where the places of a node begin; at most as many as its row is long, without `replace`.
        seed: from 0 to 2^64 - 1.
        hop: on which the draws depend.
        replace: pick with replacement.

    Returns:
        (offsets[-1],) int64.
    """
    found = torch.empty(int(offsets[-1]), dtype=torch.int64)
    call = native.FanOut(
        *map(native.address, (graph.indptr, graph.indices, nodes, offsets, found)),
        *(graph.num_nodes, len(nodes), ctypes.c_int64(seed).value, hop, int(replace)),
        int(graph.indices.dtype == torch.int64),
        native.threads(4 * len(found)),
    )
    _run(kernels.library().tm_fan_out, call)
    return found


def native_aggregate(graph: Graph, x: Tensor, left: Tensor, right: Tensor, y: Tensor) -> None:
    """y_i = left_i (right_i x_i + sum over j in row i of right_j x_j).

    Args:
        graph: N nodes.
        x: (N, F) float32, contiguous in its last axis.
        left, right: (N,) contiguous float32.
        y: as x, of other memory; written to.
    """
    call = native.Aggregate(
        *map(native.address, (graph.indptr, graph.indices, x, left, right, y)),
        *(graph.num_nodes, 0, graph.num_nodes, x.shape[1], x.stride(0), y.stride(0)),
        int(graph.indices.dtype == torch.int64),
        native.threads((graph.num_nodes + graph.num_edges) * x.shape[1]),
    )
    _run(kernels.library().tm_aggregate, call)


def _run(function: Any, call: Any) -> None:
    code = function(ctypes.byref(call))
    if code == _BAD_INDEX:
        raise ValueError(DAMAGED)
    if code:
        raise MemoryError(f"{function.__name__}: no memory for the scratch of a kernel")
