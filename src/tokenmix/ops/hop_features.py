"""Features of nodes and of their surroundings: powers of the normalised adjacency, in memory or in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.ops.common import infinite_row
from tokenmix.ops.graph import Graph, check_graph, open_array
from tokenmix.ops.graph_rows import check_members
from tokenmix.ops.native_sampling import native_aggregate
from tokenmix.ops.sparse import csr

_FILE = "hop_features.npy"
_ROWS = 1 << 16  # nodes of a block at most
_EDGES = 1 << 22  # edges of a block, where a node has not more
_LARGEST = 1 << 34  # bytes of a result in memory


def normalised_adjacency(graph: Graph) -> Tensor:
    """Â = D_c^-1/2 (A + I) D_r^-1/2, with the sums D_r of the rows and D_c of the columns of A + I.

    A has a 1 at (i, j) for each entry j of row i, so that equal edges add up, and a self loop adds to I. No sum is
    below 1. Where the graph is symmetric, this is the matrix of a GCN (arXiv 1609.02907).

    Args:
        graph: N nodes.

    Returns:
        (N, N) float32 in torch.sparse_csr, sorted rows, int32 indices where they suffice.

    Source: Dwivedi, Liu, Luu et al. 2023, arXiv 2312.11109, whose code mixes the degrees of directed graphs so.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[1], [0]]), 2)
        >>> normalised_adjacency(graph).to_dense()
        tensor([[0.7071, 1.0000],
                [0.0000, 0.7071]])
    """
    check_graph(graph)
    left, right = _scales(graph, torch.float32)
    loops = torch.arange(graph.num_nodes)
    edges = torch.cat([graph.edges(), loops.expand(2, -1)], dim=1)
    whole = Graph.from_edges(edges, graph.num_nodes, coalesce=False)
    del edges
    senders, receivers = whole.edges()
    first = torch.ones(len(senders), dtype=torch.bool)
    first[1:] = (senders[1:] != senders[:-1]) | (receivers[1:] != receivers[:-1])
    places = first.nonzero().flatten()
    times = torch.diff(places, append=torch.tensor([len(senders)])).float()  # equal edges add up
    senders, receivers = senders[places], receivers[places]
    values = left[receivers].mul_(right[senders]).mul_(times)
    indptr = torch.cat([loops.new_zeros(1), receivers.bincount(minlength=graph.num_nodes).cumsum(0)])
    return csr(indptr, senders, values, (graph.num_nodes, graph.num_nodes))


def hop_features(graph: Graph, x: Tensor, hops: int, *, out: str | os.PathLike[str] | None = None) -> Tensor:
    """x, Âx, Â²x, ... of each node side by side, Â of `normalised_adjacency`, which is never made as a whole.

    Works in blocks of nodes. Beside the graph, the features and the result, which can all lie on disk, it needs memory
    for 4 million edges. The file of `out` appears whole or not at all.

    Args:
        graph: N nodes.
        x: (N, F) floating point, maybe memory-mapped; or torch.sparse_csr, which comes out dense.
        hops: powers of Â beside x.
        out: a folder for `hop_features.npy`, made if it is not there; an earlier file in it is replaced. None: a result
            in memory, of at most 16 GiB.

    Returns:
        (N, hops + 1, F), float64 for float64, else float32; mapped from the file with `out`.

    Raises:
        TypeError: x of another kind. ValueError: another shape, a number in x that is not finite, a result that is
            too large for memory.

    Source: Dwivedi, Liu, Luu et al. 2023, arXiv 2312.11109; Chen et al. 2023 (NAGphormer), arXiv 2206.04910.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0], [1]]), 2, undirected=True)
        >>> hop_features(graph, torch.tensor([[1.0], [3.0]]), hops=1).round(decimals=4).tolist()
        [[[1.0], [2.0]], [[3.0], [2.0]]]
    """
    _check(graph, x, hops)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (graph.num_nodes, hops + 1, x.shape[1])
    if out is None:
        size = torch.Size(shape).numel() * dtype.itemsize
        if size > _LARGEST:
            raise ValueError(f"out: expected a folder for a result of {size / 2**30:.1f} GiB, found None")
        return _fill(torch.empty(shape, dtype=dtype), graph, x)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{_FILE}.{os.getpid()}.part"
    try:
        array = np.lib.format.open_memmap(part, "w+", np.float64 if dtype == torch.float64 else np.float32, shape)
        if array.size:
            _fill(torch.from_numpy(array), graph, x)
        array.flush()
        del array
        os.replace(part, folder / _FILE)
    finally:
        part.unlink(missing_ok=True)
    return open_array(folder / _FILE)


def open_hop_features(folder: str | os.PathLike[str]) -> Tensor:
    """What `hop_features` wrote to a folder, mapped.

    Raises:
        FileNotFoundError: no such file. ValueError: a damaged one.
    """
    path = Path(folder) / _FILE
    if not path.exists():
        raise FileNotFoundError(f"folder: {folder} has no {_FILE}")
    try:
        found = open_array(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"folder: {path} is damaged: {error}") from error
    if found.dim() != 3:
        raise ValueError(f"folder: {path}: expected shape (N, hops + 1, F), found {tuple(found.shape)}")
    return found


def gather_rows(features: Tensor, nodes: Tensor, out: Tensor | None = None) -> Tensor:
    """Rows of features, in the order of nodes.

    Args:
        features: (N, ...), maybe memory-mapped.
        nodes: integers of any shape.
        out: contiguous, of the result's shape and dtype; written over and returned. Fresh memory for each large batch
            costs as much time as the copy itself.

    Returns:
        (*nodes.shape, *features.shape[1:]).

    Raises:
        ValueError: a node that is out of range, another `out`. TypeError: nodes that are no integers.

    Example:
        >>> gather_rows(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 0, 1]]))
        tensor([[[3, 4],
                 [1, 2],
                 [3, 4]]])
    """
    if nodes.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"nodes: expected int32 or int64, found {nodes.dtype}")
    flat, shape = nodes.reshape(-1), (*nodes.shape, *features.shape[1:])
    if len(flat):
        low, high = map(int, flat.aminmax())
        if low < 0 or high >= len(features):
            raise ValueError(f"nodes: expected ids from 0 to {len(features) - 1}, found {low if low < 0 else high}")
    if out is None:
        return features.index_select(0, flat).view(shape)
    if out.shape != shape or out.dtype != features.dtype or not out.is_contiguous():
        found = f"{out.dtype} of shape {tuple(out.shape)}"
        raise ValueError(f"out: expected contiguous {features.dtype} of shape {tuple(shape)}, found {found}")
    torch.index_select(features, 0, flat, out=out.view(len(flat), *features.shape[1:]))
    return out


def _check(graph: Graph, x: Tensor, hops: int) -> None:
    check_graph(graph)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout not in (torch.strided, torch.sparse_csr):
        found = f"{x.dtype} in {x.layout}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: expected a floating point tensor, dense or torch.sparse_csr, found {found}")
    if x.dim() != 2 or x.shape[0] != graph.num_nodes:
        raise ValueError(f"x: expected shape (N, F) with N = {graph.num_nodes}, found {tuple(x.shape)}")
    if isinstance(hops, bool) or not isinstance(hops, int):
        raise TypeError(f"hops: expected a whole number, found {hops!r}")
    if hops < 0:
        raise ValueError(f"hops: expected at least 0, found {hops}")


def _fill(found: Tensor, graph: Graph, x: Tensor) -> Tensor:
    left, right = _scales(graph, found.dtype)
    x = x.detach()
    for start, stop in _blocks(graph):
        found[start:stop, 0] = _finite(_dense_rows(x, start, stop), start)
    for hop in range(1, found.shape[1]):
        before, after = found[:, hop - 1], found[:, hop]
        if found.dtype == torch.float32 and kernels.available():
            native_aggregate(graph, before, left, right, after)
        else:
            _aggregate(graph, before, left, right, after)
    return found


def _aggregate(graph: Graph, x: Tensor, left: Tensor, right: Tensor, y: Tensor) -> None:
    """See `native_aggregate`: a sparse product a block."""
    for start, stop in _blocks(graph):
        indptr = graph.indptr[start : stop + 1]
        senders = _senders(graph, int(indptr[0]), int(indptr[-1]))
        owners = torch.repeat_interleave(indptr.diff(), output_size=len(senders))
        values = left[start:stop][owners].mul_(right[senders])
        rows = csr(indptr - indptr[0], senders, values, (stop - start, graph.num_nodes)) @ x
        y[start:stop] = rows.addcmul_(x[start:stop], (left[start:stop] * right[start:stop])[:, None])


def _senders(graph: Graph, start: int, stop: int) -> Tensor:
    senders = graph.indices[start:stop]
    check_members(senders, graph.num_nodes)
    return senders


def _blocks(graph: Graph) -> Iterator[tuple[int, int]]:
    """First and last node of each block."""
    start = 0
    while start < graph.num_nodes:
        limit = graph.indptr[start] + _EDGES
        stop = int(torch.searchsorted(graph.indptr, limit, right=True)) - 1
        stop = min(max(stop, start + 1), start + _ROWS, graph.num_nodes)
        yield start, stop
        start = stop


def _dense_rows(x: Tensor, start: int, stop: int) -> Tensor:
    if x.layout == torch.strided:
        return x[start:stop]
    indptr = x.crow_indices()[start : stop + 1].long()
    part = slice(int(indptr[0]), int(indptr[-1]))
    columns, values = x.col_indices()[part].long(), x.values()[part]
    found = torch.zeros(stop - start, x.shape[1], dtype=x.dtype)
    owners = torch.repeat_interleave(indptr.diff(), output_size=len(columns))
    return found.index_put_((owners, columns), values, accumulate=True)


def _finite(rows: Tensor, start: int) -> Tensor:
    if (place := infinite_row(rows)) is not None:
        number = rows[place][~rows[place].isfinite()][0].item()
        raise ValueError(f"x: expected finite features, found {number} in those of node {start + place}")
    return rows


def _scales(graph: Graph, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """D_c^-1/2 and D_r^-1/2 (N,)."""
    senders = torch.zeros(graph.num_nodes, dtype=torch.int64)
    for start in range(0, graph.num_edges, _EDGES):
        block = _senders(graph, start, min(start + _EDGES, graph.num_edges))
        senders += block.bincount(minlength=graph.num_nodes)
    return (senders + 1).double().rsqrt().to(dtype), (graph.degrees() + 1).double().rsqrt().to(dtype)
